"""What a step reads: a micro-batch, its masks, and the positions that they leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glmkd_nemo.distill.positions import Positions

# Positions that a loss can be restricted to. GLMKD tells padding in two ways, kept apart here.
MASKS = ("target", "pad_labels", "pad_positions", "none")
COUNTED = ("target", "pad_labels", "pad_positions", "pad_positions_and_target")


@dataclass(frozen=True)
class TaskBatch:
    """What a task's head and loss need besides the sequences.

    ``b`` examples, ``c`` answer choices. In the multi-token form the sequences of a batch are the
    choices, so that ``input_ids`` has ``b * c`` rows; else it has ``b``.

    Attributes:
        label: ``[b]``, index of the right choice.
        target_ids: ``[b * c, s]`` ids to be predicted, or ``[b, c]`` one token per choice.
        target_mask: ``[b * c, s]``, 1 where ``target_ids`` are predicted.
        choice_mask: ``[b, c]``, 0 for choices that only pad; ``None`` if none does.
        choice_of: ``[b, s]``, where the choices stand behind one context: the choice that a
            position belongs to (then all of the above have ``b`` rows).
        choices: ``c``, needed with ``choice_of``.
    """

    label: Tensor
    target_ids: Tensor | None = None
    target_mask: Tensor | None = None
    choice_mask: Tensor | None = None
    choice_of: Tensor | None = None
    choices: int | None = None


@dataclass(frozen=True)
class Batch:
    """A micro-batch: ``input_ids``, ``labels``, ``loss_mask`` ``[b, s]``, ``position_ids``
    ``[b, 2, s]``, ``attention_mask`` ``[b]`` (sep) or a full mask; on a task, ``task`` too (then
    ``labels`` are the target ids and ``loss_mask`` tells where they are predicted).

    ``counts`` ``[b, 4]`` are numbers on the host: how many positions of a sample each mask of
    :data:`COUNTED` has. Without them, taking a loss of some positions waits for the device once.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    loss_mask: Tensor
    task: TaskBatch | None = None
    counts: np.ndarray | None = None

    @cached_property
    def target(self) -> Tensor:
        """``[b, s]`` booleans: positions to be predicted."""
        return self.loss_mask.bool()

    @cached_property
    def pad_labels(self) -> Tensor:
        """``[b, s]`` booleans: all but padding, told by the labels (above 0)."""
        return self.labels > 0

    @cached_property
    def pad_positions(self) -> Tensor:
        """``[b, s]`` booleans: all but padding, told by position ids (above 0, or the first)."""
        real = self.position_ids[:, 0] > 0
        real[:, 0] = True
        return real

    @cached_property
    def everywhere(self) -> Tensor:
        """``[b, s]`` of ``True``."""
        return torch.ones_like(self.input_ids, dtype=torch.bool)

    @cached_property
    def pad_positions_and_target(self) -> Tensor:
        """``[b, s]`` booleans: both."""
        return self.pad_positions & self.target

    def mask(self, name: str) -> Tensor:
        """A mask by the name that configurations use, see :data:`MASKS`."""
        mask: Tensor = getattr(self, "everywhere" if name == "none" else name)
        return mask

    def positions(self, name: str) -> Positions:
        """Those of a mask, by the name that :meth:`mask` takes; made once."""
        made = self._positions
        if name not in made:
            mask, count = self.mask(name), None
            if name == "none":
                count = mask.numel()
            elif self.counts is not None and name in COUNTED:
                count = int(self.counts[:, COUNTED.index(name)].sum())
            made[name] = Positions(mask, count)
        return made[name]

    @cached_property
    def _positions(self) -> dict[str, Positions]:
        return {}


def batch_of(fields: Mapping[str, Any]) -> Batch:
    """A micro-batch as the data loader yields it (keys are the fields of :class:`Batch`)."""
    return Batch(**fields)


def counted(fields: Mapping[str, Any]) -> np.ndarray:
    """``Batch.counts`` of a batch that is still on the host."""
    batch = batch_of(fields)
    return np.stack([batch.mask(name).sum(1).numpy() for name in COUNTED], 1)
