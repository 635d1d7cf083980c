"""Prediction head and prediction losses in one: no tensor of all positions and tokens is made.

A few rows at a time go through the student's head and the teachers', the losses of these rows are
taken, and their gradients go on at once to the hidden states and to the head's weight, which are
all that is kept (as first done for cross-entropy by Cut Your Losses, arXiv 2411.09009, and by Liger
Kernel, arXiv 2410.10989). Kept for the backward: ``[n, h]`` and ``[V', h]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill.losses import at_least_fp32
from glmkd_nemo.distill.parallel import tp_size
from glmkd_nemo.distill.row_loss import RowLoss

_ROWS_HELD = 192  # by all chunk buffers together, on a CPU: more is no faster
_SHARE_HELD = 0.18  # of the rows, elsewhere: a large matrix product fills a GPU
_BLOCK_BYTES = 2**20  # what a core's cache holds of a chunk


@dataclass(frozen=True)
class HeadTerm:
    """One loss on the rows.

    Attributes:
        loss: of a row.
        change: of the teacher's rows ``[c, V']`` before they are compared.
        hidden, head: of the teacher, ``[n, h_t]`` and ``[V', h_t]``; ``None`` without one.
        labels: ``[n]``, counted from this rank's first column; ``None`` with a teacher.
        weight: ``[n]``, of each row in the total.
    """

    loss: RowLoss
    weight: Tensor
    hidden: Tensor | None = None
    head: Tensor | None = None
    labels: Tensor | None = None
    change: Callable[[Tensor], Tensor] | None = None


class Workspace:
    """Chunk buffers that live from step to step: fresh memory costs a fault per page.

    Args:
        rows: rows of logits that all buffers together may hold; ``None``: as fits the device.
    """

    def __init__(self, rows: int | None = None) -> None:
        self._rows = rows
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def rows(self, like: Tensor) -> int:
        """How many rows of logits the buffers may hold for hidden states ``[n, h]``."""
        if self._rows is not None:
            return self._rows
        return _ROWS_HELD if like.is_cpu else max(_ROWS_HELD, int(_SHARE_HELD * len(like)))

    def take(self, name: str, rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """``[rows, columns]``, uninitialised; the same memory for the same ``name``."""
        key = name, dtype, like.device
        if key not in self._buffers or self._buffers[key].numel() < rows * columns:
            self._buffers[key] = like.new_empty(rows * columns, dtype=dtype)
        return self._buffers[key][: rows * columns].view(rows, columns)


def head_losses(
    hidden: Tensor, head: Tensor, terms: Sequence[HeadTerm], space: Workspace
) -> tuple[Tensor, Tensor]:
    """Losses of rows.

    Args:
        hidden: the student's, ``[n, h]``.
        head: the student's, ``[V', h]``.
        terms: what is added up; their tensors get no gradient.
        space: for chunks.

    Returns:
        The weighted sum over rows and terms, with gradient, and the values ``[terms, n]`` without.
    """
    learns = torch.is_grad_enabled()
    total, values = _HeadLosses.apply(
        hidden if learns else hidden.detach(), head if learns else head.detach(), terms, space
    )
    return total, values


class _HeadLosses(torch.autograd.Function):
    """Gradients are written in the forward; the backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, terms: Sequence[HeadTerm], space: Workspace
    ) -> tuple[Tensor, Tensor]:
        run = _Run(hidden, head, terms, space, ctx.needs_input_grad[:2])
        values = run.all_chunks()
        ctx.gradients = run.gradients
        ctx.mark_non_differentiable(values)
        weights = torch.stack([term.weight.to(values.dtype) for term in terms])
        return (values * weights).sum(), values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Any, ...]:  # type: ignore[override]
        if ctx.gradients is None:
            raise RuntimeError("the fused head's gradients are given out once, they have been")
        hidden, head = (None if g is None else g.mul_(upstream) for g in ctx.gradients)
        ctx.gradients = None
        return hidden, head, None, None


class _Run:
    """One pass over the chunks.

    A chunk's gradient by the logits keeps a factor per row apart, see ``RowLoss.gradient_``: it is
    cheaper to multiply hidden states with. Of several terms the sum is formed in a third buffer.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: Tensor,
        terms: Sequence[HeadTerm],
        space: Workspace,
        wanted: Sequence[bool],
    ) -> None:
        self.hidden, self.head, self.terms, self.space = (
            hidden.detach(),
            head.detach(),
            terms,
            space,
        )
        self.dtype = at_least_fp32(hidden.new_empty(0)).dtype
        n, h = hidden.shape
        self.gradients: tuple[Tensor | None, Tensor | None] = (
            hidden.new_empty(n, h, dtype=self.dtype) if wanted[0] else None,
            head.new_zeros(head.shape, dtype=self.dtype) if wanted[1] else None,
        )
        buffers = 2 if len(terms) == 1 else 3
        chunks = max(1, -(-n // max(1, space.rows(hidden) // buffers)))
        self.chunk = max(1, -(-n // chunks))
        row = max(1, head.shape[0] * self.dtype.itemsize)
        self.block = max(1, _BLOCK_BYTES // row) if hidden.is_cpu else self.chunk
        if tp_size() > 1:  # each block is a round of messages
            self.block = max(self.block, -(-self.chunk // 4))

    def all_chunks(self) -> Tensor:
        """Values ``[terms, n]``."""
        n = len(self.hidden)
        values = self.hidden.new_empty(len(self.terms), n, dtype=self.dtype)
        for start in range(0, n, self.chunk):
            rows = slice(start, min(start + self.chunk, n))
            gradient, factor = self._of_terms(rows, values)
            self._pass_on(rows, gradient, factor)
        return values

    def _of_terms(self, rows: slice, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradient by the logits of a chunk, and its factor by row."""
        count = rows.stop - rows.start
        if len(self.terms) == 1:
            scale = self.terms[0].loss.scale
            s = self._logits("student", self.hidden[rows] * scale, self.head)
            return s, self._of_term(0, rows, s, values)
        logits = self._logits("student", self.hidden[rows], self.head)
        total = self._buffer("total", count).zero_()
        s = self._buffer("gradient", count)
        for k, term in enumerate(self.terms):
            torch.mul(logits, term.loss.scale, out=s)
            factor = self._of_term(k, rows, s, values)
            total.addcmul_(s, factor)
        return total, None

    def _of_term(self, k: int, rows: slice, s: Tensor, values: Tensor) -> Tensor:
        """Writes the gradient over ``s``; returns its factor ``[c, 1]``, the weight taken in."""
        term, block = self.terms[k], self.block
        weight = term.weight[rows].to(self.dtype).unsqueeze(-1)
        t = None
        if term.hidden is not None and term.head is not None:
            t = self._logits("teacher", term.hidden[rows] * term.loss.scale, term.head)
            t = t if term.change is None else term.change(t)
        factor = torch.empty_like(weight)
        scratch = self._buffer("scratch", min(block, len(s)))
        for i in range(0, len(s), block):
            here = slice(i, min(i + block, len(s)))
            count = here.stop - here.start
            there = slice(rows.start + i, rows.start + i + count)
            labels = None if term.labels is None else term.labels[there]
            theirs = None if t is None else t[here]
            value, own = term.loss.gradient_(s[here], theirs, labels, scratch[:count])
            values[k, there] = value
            factor[here] = 1.0 if own is None else own
        return factor * weight

    def _pass_on(self, rows: slice, gradient: Tensor, factor: Tensor | None) -> None:
        """Adds a chunk's share to the gradients of hidden states and head."""
        by_hidden, by_head = self.gradients
        hidden = self.hidden[rows].to(self.dtype)
        if by_hidden is not None:
            torch.mm(gradient, self.head.to(self.dtype), out=by_hidden[rows])
            if factor is not None:
                by_hidden[rows] *= factor
        if by_head is not None:
            by_head.addmm_(gradient.t(), hidden if factor is None else hidden * factor)

    def _logits(self, name: str, hidden: Tensor, head: Tensor) -> Tensor:
        out = self._buffer(name, len(hidden), head.shape[0])
        if hidden.dtype == head.dtype == out.dtype:
            return torch.mm(hidden, head.t(), out=out)
        return out.copy_(torch.mm(hidden.to(head.dtype), head.t()))

    def _buffer(self, name: str, rows: int, columns: int | None = None) -> Tensor:
        width = self.head.shape[0] if columns is None else columns
        return self.space.take(name, rows, width, self.head, self.dtype)
