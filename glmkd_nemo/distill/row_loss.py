"""Losses that are sums over positions: what one row of logits costs, and how rows add up.

Because a row's loss needs that row's logits only, its gradient is known as soon as these are: the
fused head (``fused_kl.py``) takes both from a few rows at a time, and never has all logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from glmkd_nemo.distill import fused_rows, fused_triton
from glmkd_nemo.distill.losses import Average, cross_entropy, mean_count
from glmkd_nemo.distill.method import Batch, Taps
from glmkd_nemo.distill.positions import Positions
from glmkd_nemo.models.logits import Logits, comparable

LOGITS = ("logits", None)


class KernelRows(NamedTuple):
    """What a kernel works on.

    Attributes:
        s, t: logits ``[c, V']``, not scaled; they are only read, unless ``out`` is ``s``.
        labels: ``[c]``, counted from this rank's first column.
        weight: ``[c]`` fp32, on the gradient.
        out: ``[c, V']``, where that goes, or is added to with ``add``.
    """

    s: Tensor
    t: Tensor | None
    labels: Tensor | None
    weight: Tensor
    out: Tensor
    add: bool


class RowLoss:
    """A loss of single rows of logits."""

    @property
    def scale(self) -> float:
        """What :meth:`gradient_` wants hidden states multiplied with: ``1 / T``, or 1."""
        return 1.0

    def rows(self, s: Tensor, t: Tensor | None, labels: Tensor | None) -> Tensor:
        """Values of rows.

        Args:
            s, t: logits ``[..., V']`` of student and teacher (``None`` without one).
            labels: ``[...]``, counted from this rank's first column.

        Returns:
            ``[...]``, equal on all tensor-parallel ranks.
        """
        raise RuntimeError(f"{type(self).__name__} must define rows()")

    def average(self, where: Positions, vocab_size: int, dtype: torch.dtype) -> Average:
        """How the values of the rows at ``where`` make a sample's loss."""
        raise RuntimeError(f"{type(self).__name__} must define average()")

    def gradient_(
        self, s: Tensor, t: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Values and gradients at once, over the logits.

        Args:
            s, t: ``[c, V']``, times :attr:`scale`; both may be overwritten.
            labels: ``[c]``, as in :meth:`rows`.

        Returns:
            Values ``[c]``, and a factor ``[c, 1]`` (``None``: 1) with which ``s`` is the gradient
            by the student's logits (not times :attr:`scale`).
        """
        return fused_rows.by_autograd_(lambda x: self.rows(x, t, labels), s), None

    @property
    def has_kernel(self) -> bool:
        """Whether :meth:`kernel` is there."""
        return False

    def kernel(self, on: KernelRows) -> Tensor:
        """Values ``[c]`` by a Triton kernel, see ``fused_triton.py``."""
        raise RuntimeError(f"{type(self).__name__} has no kernel")


@dataclass(frozen=True)
class HardLabels(RowLoss):
    """Cross-entropy with the labels; its mean over samples is the mean over *tokens*."""

    def rows(self, s: Tensor, t: Tensor | None, labels: Tensor | None) -> Tensor:
        """``-log q`` of the label."""
        assert labels is not None
        return cross_entropy(s, labels)

    def average(self, where: Positions, vocab_size: int, dtype: torch.dtype) -> Average:
        """Sums over the batch's mean number of tokens; 0 where there are none."""
        return Average(1 / mean_count(where.numbers(dtype)))

    def gradient_(
        self, s: Tensor, t: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Written down: see :func:`~glmkd_nemo.distill.fused_rows.cross_entropy_`."""
        assert labels is not None
        return fused_rows.cross_entropy_(s, labels)

    @property
    def has_kernel(self) -> bool:
        """Yes."""
        return True

    def kernel(self, on: KernelRows) -> Tensor:
        """See :func:`~glmkd_nemo.distill.fused_triton.cross_entropy_`."""
        assert on.labels is not None
        return fused_triton.cross_entropy_(on.s, on.labels, on.weight, on.out, add=on.add).values


@dataclass(frozen=True)
class TokenLoss:
    """The loss of a part (see ``method.Part``) that is a sum over positions.

    Called, it multiplies the logits out; the engine takes it apart instead where it can.

    Attributes:
        row: the loss of a row.
        where: the positions that count.
        teacher: whether the teacher's logits are needed.
        kept_only: compare the tokens that the student's vocabulary map keeps only.
        change: of the student's handle and the teacher's rows ``[n, V']``: what is compared.
    """

    row: RowLoss
    where: Callable[[Batch], Positions]
    teacher: bool = True
    kept_only: bool = False
    change: Callable[[Logits, Tensor], Tensor] | None = None

    def __call__(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        """``[b]``."""
        s, t = self.heads(student, teacher)
        where = self.where(batch)
        theirs = None if t is None else t.rows(where)
        if theirs is not None and self.change is not None:
            theirs = self.change(s, theirs)
        rows = self.row.rows(s.rows(where), theirs, self.labels(s, batch))
        return self.row.average(where, s.vocab_size, rows.dtype).of(where.sum(rows))

    def heads(self, student: Taps, teacher: Taps) -> tuple[Logits, Logits | None]:
        """The prediction heads that are compared, with the same columns."""
        if not self.teacher:
            return student[LOGITS], None
        return comparable(student[LOGITS], teacher[LOGITS], self.kept_only)

    def labels(self, student: Logits, batch: Batch) -> Tensor | None:
        """``[n]``, counted from this rank's first column; ``None`` if there is a teacher."""
        if self.teacher:
            return None
        ids = self.where(batch).of(batch.labels)
        return student.columns_of(ids) - student.columns.start


def hard_tokens() -> TokenLoss:
    """Cross-entropy with the labels, at the tokens to be predicted."""
    return TokenLoss(HardLabels(), lambda batch: batch.positions("target"), teacher=False)
