"""Sizes of the models and batches that are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True)
class Size:
    """Of student, teacher and global batch; ``context`` of ``sequence`` positions are not
    predicted."""

    student_layers: int = 6
    teacher_layers: int = 12
    hidden: int = 256
    heads: int = 8
    vocab: int = 30592
    batch: int = 4
    sequence: int = 256
    context: int = 220
    positions: int = 512


REFERENCE = Size()  # every figure of "step / floor" is of this size
SMALL = Size(4, 8, 64, 4, 2048, 4, 64, 48, 64)  # for what does not depend on the size


def batch(size: Size) -> dict[str, Tensor]:
    """Random tokens, as the data loader yields them."""
    import torch

    generator = torch.Generator().manual_seed(1)
    shape = (size.batch, size.sequence)
    position = torch.arange(size.sequence).repeat(size.batch, 1)
    block = (position - size.context + 1).clamp(min=0)
    return {
        "input_ids": torch.randint(1, size.vocab, shape, generator=generator),
        "position_ids": torch.stack([position.clamp(max=size.context - 1), block], 1),
        "attention_mask": torch.full((size.batch,), size.context),
        "labels": torch.randint(1, size.vocab, shape, generator=generator),
        "loss_mask": (position >= size.context).float(),
    }
