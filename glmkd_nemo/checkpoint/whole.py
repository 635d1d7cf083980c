"""Weights of a GLM between two formats: whole, under original names, read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.models.vocab_map import Tables

EXTRA = "student."  # the original's prefix of what a method has besides the student
Metas = dict[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Attributes:
        origin: how the summary calls it.
        metas: shape and dtype of each weight by original name, as tensors on the meta device.
        read: the whole weight of a name.
        model: keys of the section ``model`` that the source tells.
        tables: of its vocabulary map.
        original_tables: the same as the original keeps them, with the order of all tokens.
        extras: of methods (``student.*``), read as weights are.
        not_weights: what else was found there, by name (optimizer, random states ...).
        dropped: names left out because the user said so.
        iteration: of the run that saved it.
        tag: of the original's folder.
        args: the original's saved options, as far as they are plain values.
        tokenizer: folder of a saved tokenizer.
    """

    origin: str
    metas: Metas
    read: Callable[[str], Tensor]
    model: Mapping[str, Any] = field(default_factory=dict)
    tables: Tables | None = None
    original_tables: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Metas = field(default_factory=dict)
    not_weights: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    iteration: int | None = None
    tag: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Path | None = None

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(meta.numel() for meta in self.metas.values())

    @property
    def bytes(self) -> int:
        """Size of all weights."""
        return sum(meta.nbytes for meta in self.metas.values())


def meta(shape: Any, dtype: torch.dtype) -> Tensor:
    """A tensor of that shape without data."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")
