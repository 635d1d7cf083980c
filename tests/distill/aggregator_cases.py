"""Aggregators in forms that their recipes do not have, and tiny objectives that use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill.method import Batch, ModelShape
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.models.logits import Logits
from tests.distill import kit

STUDENT = ModelShape(2, 16, 4, kit.VOCAB)
# different depth, width and number of heads
TEACHERS = {"t0": ModelShape(4, 32, 4, kit.VOCAB), "t1": ModelShape(3, 24, 2, kit.VOCAB)}
TERMS: dict[str, dict[str, Any]] = {
    "soft": {"method": "kd", "temperature": 3.0, "weight": 0.5},
    "states": {"method": "tinybert", "attention": False},
    "hard": {"method": "hard"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "dgkd": {"name": "mean", "survival": 0.6},
    "soft": {"name": "uncertainty", "hard": False},
    "soft_pad": {"name": "uncertainty", "hard": False, "mask": "pad_labels", "order": [1, 0]},
    "inter_entropy": {"name": "uncertainty", "hard": False, "inter_entropy": True},
    "mixed": {
        "name": "mixture",
        "members": [
            {"name": "mean", "hard": False},
            {"name": "uncertainty", "hard": False, "inter_entropy": True},
            {"name": "mt_bert"},
        ],
    },
    "reward_2": {"name": "rl_kd", "semantic_teacher": 1, "reward": 2, "mask": "none"},
}


def objective(
    aggregator: Mapping[str, Any] | None,
    terms: Mapping[str, Mapping[str, Any]] = TERMS,
    student: ModelShape = STUDENT,
    teachers: Mapping[str, ModelShape] = TEACHERS,
) -> Objective:
    """In float64."""
    read = {n: term_from_dict(n, t, teachers, aggregator is not None) for n, t in terms.items()}
    return Objective(read, student, teachers, 5, aggregator).double()


@contextmanager
def bench(aggregator: Mapping[str, Any], sp: bool = False) -> Iterator[kit.Bench]:
    """The kit's bench with this aggregator and two teachers."""
    before = kit.fitting
    kit.fitting = lambda name, seed: objective(aggregator)
    try:
        yield kit.Bench("these", sp=sp)
    finally:
        kit.fitting = before


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def handle(logits: Tensor) -> Logits:
    """A handle of given logits ``[b, s, V]``, with their gradient."""
    size = logits.shape[-1]
    return Logits(logits.transpose(0, 1), torch.eye(size, dtype=logits.dtype), size, False)


def tokens(b: int, s: int, vocab: int) -> Batch:
    """A micro-batch whose samples have different numbers of targets."""
    generator = torch.Generator().manual_seed(9)
    place = torch.arange(s).expand(b, -1)
    mask = (place >= 1) & (place < 2 + torch.arange(b)[:, None] % (s - 1))
    ids = torch.randint(1, vocab, (b, s), generator=generator)
    position = torch.stack([place, torch.zeros_like(place)], 1)
    return Batch(ids, position, torch.full((b,), s), ids.flip(1), mask.double())
