"""A part that compares states of student and teacher, told which positions are padding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glmkd_nemo.distill.method import Batch, Part, Taps
from glmkd_nemo.distill.taps import TapKey

MaskedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
Keys = tuple[TapKey, ...]


def masked_part(name: str, loss: MaskedLoss, student: Keys, teacher: Keys, weight: float) -> Part:
    """A part of one state, or of several.

    Args:
        loss: of the student's state, the teacher's and the mask ``[b, s]`` of positions that are
            not padding (told by position ids): ``[b]``. A state is ``[b, s, h]``; several come
            stacked, ``[b, s, states, h]``.
        student, teacher: keys of unsharded taps, as many of each.
        weight: factor of the part inside its term.
    """

    def of_taps(mine: Taps, theirs: Taps, batch: Batch) -> Tensor:
        return loss(_states(mine, student), _states(theirs, teacher), batch.pad_positions)

    return Part(name, of_taps, student, teacher, weight)


def _states(taps: Taps, keys: Keys) -> Tensor:
    values = [taps[key].value for key in keys]
    return values[0] if len(values) == 1 else torch.stack(values, 2)
