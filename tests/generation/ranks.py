"""What tests/generation runs on two ranks."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import load_whole
from glmkd_nemo.models.glm import GLMModel
from tests.distill.ranks import layout
from tests.generation import words
from tests.models import ranks

VOCAB, KEPT = ranks.VOCAB, 14
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "albert": {"share_layers": True, "embedding_size": 12},
    "bottleneck": {"bottleneck_size": 8, "bottleneck_ffns": 2},
    "trigram": {"bottleneck_size": 8, "bottleneck_word_embedding": 5},
    "mapped": {"vocab_map": {"size": KEPT}},
    "kept only": {"vocab_map": {"size": KEPT, "unmap_output": True}},
}
ON_RANKS = ("plain", "trigram", "kept only")
SEARCHES = ("greedy", "beams", "drawn")
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"tp": 2},
    "tp2 sp": {"tp": 2, "sp": True},
    "pp2": {"pp": 2},
}


def build(form: str, sp: bool = False) -> GLMModel:
    """This rank's stage of a model."""
    glm = ranks.build({**words.SIZES, **FORMS[form]}, sp)
    if glm.vocab_map is not None:
        words.keep_some(glm, KEPT)
    return glm


def everything(states: dict[str, dict[str, Tensor]]) -> dict[tuple[str, str], list[Any]]:
    """By layout and form: results with the given weights, of both ranks, with and without cache."""
    found: dict[tuple[str, str], list[Any]] = {}
    for name, settings in LAYOUTS.items():
        with layout(settings.get("tp", 1), settings.get("pp", 1)):
            for form, state in states.items():
                glm = build(form, settings.get("sp", False))
                load_whole(glm, state)
                mine = [words.results(glm, SEARCHES, use_cache=cached) for cached in (True, False)]
                everyone: list[Any] = [None, None]
                dist.all_gather_object(everyone, mine)
                found[name, form] = [*everyone[0], *everyone[1]]
    return found
