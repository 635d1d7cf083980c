"""Which parts of a step go through the fused head, and how their values come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill.aggregator import Factor, Weights
from glmkd_nemo.distill.combine import added, factor_of
from glmkd_nemo.distill.fused_kl import HeadTerm, Workspace, head_losses
from glmkd_nemo.distill.losses import at_least_fp32
from glmkd_nemo.distill.method import Batch, Taps
from glmkd_nemo.distill.objective import WeightedPart
from glmkd_nemo.distill.positions import Positions
from glmkd_nemo.distill.row_loss import TokenLoss
from glmkd_nemo.models.logits import Logits


@dataclass(frozen=True)
class _Member:
    planned: WeightedPart
    loss: TokenLoss
    factor: Factor
    teacher: Logits | None
    batch: Batch


@dataclass
class _Group:
    """Parts on the same rows of the same student head."""

    student: Logits
    where: Positions
    members: list[_Member] = field(default_factory=list)


class FusedParts:
    """Prediction parts of a micro-batch that need no logits of all their rows at once.

    Args:
        space: chunk buffers.
        weights: of the aggregator; ``None`` without one.
        teachers: names, in the order of the weights.
    """

    def __init__(self, space: Workspace, weights: Weights | None, teachers: Sequence[str]) -> None:
        self._space, self._weights, self._teachers = space, weights, teachers
        self._groups: dict[tuple[int, int], _Group] = {}

    def takes(self, planned: WeightedPart, mine: Taps, theirs: Taps, batch: Batch) -> bool:
        """Takes a part in, if it can be one of these.

        It cannot where its gradient has to go elsewhere too (to a teacher that learns, or to a
        factor), or where somebody has multiplied the rows out already.

        Args:
            planned: the part, at home on this stage.
            mine, theirs: taps of student and teacher.
            batch: the view of the micro-batch that they are of.
        """
        loss = planned.part.loss
        factor = factor_of(planned, self._weights, self._teachers)
        if not isinstance(loss, TokenLoss) or _has_gradient(factor):
            return False
        student, teacher = loss.heads(mine, theirs)
        where = loss.where(batch)
        if student.has_rows(where):
            return False
        if teacher is not None and (teacher.has_gradient or teacher.has_rows(where)):
            return False
        group = self._groups.setdefault((id(student), id(where)), _Group(student, where))
        group.members.append(_Member(planned, loss, factor, teacher, batch))
        return True

    def losses(self) -> tuple[Tensor | None, Mapping[str, Tensor]]:
        """The weighted sum of all parts taken in (``None`` without any), with gradient, and the
        values ``[b]`` of each, without."""
        total: Tensor | None = None
        values: dict[str, Tensor] = {}
        for group in self._groups.values():
            total = added(total, self._of_group(group, values))
        return total, values

    def _of_group(self, group: _Group, values: dict[str, Tensor]) -> Tensor:
        where, hidden = group.where, group.student.states(group.where)
        dtype = at_least_fp32(hidden.new_empty(0)).dtype
        averages = [
            m.loss.row.average(where, group.student.vocab_size, dtype) for m in group.members
        ]
        weights = [_by_sample(m, where.shape[0], hidden, dtype) for m in group.members]
        terms = [
            _term(m, where, group.student, (weight * average.scale)[where.sample])
            for m, weight, average in zip(group.members, weights, averages, strict=True)
        ]
        total, rows = head_losses(hidden, group.student.head, terms, self._space)
        for member, average, weight, of_rows in zip(
            group.members, averages, weights, rows, strict=True
        ):
            values[member.planned.name] = average.of(where.sum(of_rows))
            total = total + (weight * average.constant).sum()
        return total


def _has_gradient(factor: Factor) -> bool:
    return isinstance(factor, Tensor) and factor.requires_grad


def _by_sample(member: _Member, b: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """``[b]``: what each sample's value counts in the total, see ``combine.weighed``."""
    factor: Any = member.factor
    if isinstance(factor, Tensor) and factor.dim():
        factor = factor.repeat_interleave(b // len(factor), output_size=b)
    ones = like.new_ones(b, dtype=dtype)
    return ones * factor * (member.planned.weight / b)


def _term(member: _Member, where: Positions, student: Logits, weight: Tensor) -> HeadTerm:
    teacher, loss = member.teacher, member.loss
    change = loss.change
    return HeadTerm(
        loss.row,
        weight,
        None if teacher is None else teacher.states(where).detach(),
        None if teacher is None else teacher.head.detach(),
        loss.labels(student, member.batch),
        None if change is None else lambda rows: change(student, rows),
    )
