"""Whether a converted checkpoint is the same model: both are loaded, and their logits compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from glmkd_nemo.checkpoint.archive import WEIGHTS, extracted, read_nemo_config
from glmkd_nemo.checkpoint.original_glm import from_original, load_whole
from glmkd_nemo.checkpoint.weights import load_sharded
from glmkd_nemo.checkpoint.whole import Weights
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.heads import HeadConfig

ROWS, LENGTH = 3, 24


def logits_of(weights: Weights, model: Mapping[str, Any], words: int) -> Tensor:
    """Logits ``[rows, length, V]`` of whole weights on a few fixed rows of tokens.

    Args:
        weights: of any format.
        model: the section ``model``.
        words: tokens to draw the rows from.
    """
    net = _built(model, vocabulary(weights))
    heads = int(model["num_attention_heads"])
    state = {name: weights.read(name) for name in weights.metas}
    load_whole(net, from_original(state, heads))
    if weights.tables is not None and net.vocab_map is not None:
        net.vocab_map.fill(weights.tables)
    return _logits(net, words)


def logits_of_nemo(source: Path, words: int) -> Tensor:
    """The same of a ``.nemo`` or a sharded folder of ``words`` tokens, loaded as scripts do."""
    model: Any = OmegaConf.to_container(read_nemo_config(source), resolve=True)
    net = _built(model, words)
    with extracted(source) as folder:
        load_sharded(net, folder / WEIGHTS, label=str(source))
    return _logits(net, words)


def vocabulary(weights: Weights) -> int:
    """Tokens of a checkpoint, with those that pad it."""
    if weights.tables is not None:
        return len(weights.tables.row_of_id)
    return int(weights.metas["word_embeddings.weight"].shape[0])


def _built(model: Mapping[str, Any], vocab_size: int) -> GLMModel:
    from glmkd_nemo.engine.strategy import join_alone

    join_alone()
    plain = {**model, "transformer_engine": False, "fp8": False}
    config = glm_config_from_cfg(plain, vocab_size, parallel={})
    head = model.get("head")
    return GLMModel(config, head=HeadConfig(**head) if head else None).eval()


@torch.no_grad()
def _logits(net: GLMModel, words: int) -> Tensor:
    """In fp32: tokens from all over the vocabulary, two thirds of each row its context."""
    length = min(LENGTH, net.config.max_position_embeddings)
    ids = (torch.arange(ROWS * length) * 7919).view(ROWS, length) % words
    sep = torch.full((ROWS,), 2 * length // 3)
    position = torch.arange(length).expand(ROWS, -1)
    block = (position - sep.unsqueeze(1) + 1).clamp(min=0)
    out: Tensor = net(ids, torch.stack([position, block], 1), sep)
    return out
