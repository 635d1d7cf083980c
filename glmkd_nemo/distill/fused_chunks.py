"""The pass over chunks of rows behind the fused head: on any device, and by kernels on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glmkd_nemo.distill import fused_triton
from glmkd_nemo.distill.chunks import even_size, moved, pieces
from glmkd_nemo.distill.losses import at_least_fp32
from glmkd_nemo.distill.parallel import tp_size
from glmkd_nemo.distill.row_loss import KernelRows, RowLoss
from glmkd_nemo.distill.workspace import VECTOR, Workspace

_BLOCK_BYTES = 2**20  # of a chunk that a CPU's caches hold while its loss is taken
_SLICE_BYTES = 2**21  # of a head that they hold while few rows are multiplied with it


@dataclass(frozen=True)
class HeadTerm:
    """One loss on the rows.

    Attributes:
        loss: of a row.
        weight: ``[n]``, of each row in the total.
        hidden, head: of the teacher, ``[n, h_t]`` and ``[V', h_t]``; ``None`` without one.
        labels: ``[n]``, counted from this rank's first column; ``None`` with a teacher.
        change: of the teacher's rows ``[c, V']`` before they are compared.
    """

    loss: RowLoss
    weight: Tensor
    hidden: Tensor | None = None
    head: Tensor | None = None
    labels: Tensor | None = None
    change: Callable[[Tensor], Tensor] | None = None

    def labels_of(self, rows: slice) -> Tensor | None:
        """Those of some rows."""
        return None if self.labels is None else self.labels[rows]


class Chunks:
    """One pass over the chunks.

    A chunk's gradient by the logits keeps a factor per row apart, see ``RowLoss.gradient_``: it is
    cheaper to multiply hidden states with. Of several terms the sum is formed in a second buffer.
    A teacher's logits are there for half of the rows at a time.

    Args:
        hidden, head, terms, space: see :func:`~glmkd_nemo.distill.fused_kl.head_losses`.
        wanted: which of ``hidden`` and ``head`` need a gradient.

    Attributes:
        gradients: of the weighted sum by ``hidden`` and ``head``, in multiples of ``unit``, as tiny
            ones would vanish in fp16; ``None`` where not wanted.
        unit: scalar, the mean weight of a row; 1 where nothing is kept in fp16 or bf16.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: Tensor,
        terms: Sequence[HeadTerm],
        space: Workspace,
        wanted: Sequence[bool],
    ) -> None:
        self.hidden, self.head, self.space = hidden.detach(), head.detach(), space
        self.dtype = at_least_fp32(hidden.new_empty(0)).dtype
        self.unit = self._unit([t.weight for t in terms])
        self.terms = [replace(t, weight=(t.weight / self.unit).to(self.dtype)) for t in terms]
        self.gradients: tuple[Tensor | None, Tensor | None] = (
            hidden.new_empty(hidden.shape, dtype=self.stored) if wanted[0] else None,
            space.borrow(head, self.dtype) if wanted[1] else None,
        )
        n = len(hidden)
        if n == 0 and self.gradients[1] is not None:
            self.gradients[1].zero_()  # else the first chunk writes it
        held = space.rows(n, head) * 4 // self.stored.itemsize  # counted in fp32
        step = VECTOR if hidden.is_cpu else 1
        self.chunk = even_size(n, max(1, int(held / self.buffers)), step)
        self.part = min(self.chunk, -(-self.chunk // (2 * step)) * step)
        row = max(1, head.shape[0] * self.dtype.itemsize)
        self.block = max(1, _BLOCK_BYTES // row) if hidden.is_cpu else self.chunk
        if tp_size() > 1:  # each block is a round of messages
            self.block = max(self.block, -(-self.chunk // 4))

    def _unit(self, weights: Sequence[Tensor]) -> Tensor:
        if self.head.dtype.itemsize > 2:
            return weights[0].new_ones((), dtype=self.dtype)
        mean = torch.stack([w.abs().sum() for w in weights]).amax() / max(len(self.hidden), 1)
        return torch.where(mean > 0, mean, torch.ones_like(mean)).to(self.dtype)

    @property
    def stored(self) -> torch.dtype:
        """Type of logits and of their gradient."""
        return self.dtype

    @property
    def buffers(self) -> float:
        """How many tensors of a chunk's rows there are; a teacher's logits are half of one."""
        return min(len(self.terms), 3) + 0.5 * self.has_teacher

    @property
    def has_teacher(self) -> bool:
        """Whether any term has one."""
        return any(term.head is not None for term in self.terms)

    def run(self) -> Tensor:
        """Takes all losses and gradients; returns the values ``[terms, n]``."""
        n = len(self.hidden)
        values = self.hidden.new_empty(len(self.terms), n, dtype=self.dtype)
        for rows in pieces(n, self.chunk):
            self.pass_on(rows, *self.of_terms(rows, values))
        return values

    def of_terms(self, rows: slice, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradient by the logits of a chunk, and its factor by row."""
        if len(self.terms) == 1:
            scale = self.terms[0].loss.scale
            s = self.logits("student", self.hidden[rows] * scale, self.head)
            return s, self._of_term(0, rows, s, values)
        logits = self.logits("student", self.hidden[rows], self.head)
        total, last = self.buffer("total", len(logits)), len(self.terms) - 1
        for k, term in enumerate(self.terms):
            own = {0: total, last: logits}.get(k)  # which none needs any more
            s = self.buffer("gradient", len(logits)) if own is None else own
            torch.mul(logits, term.loss.scale, out=s)
            factor = self._of_term(k, rows, s, values)
            if k == 0:
                total.mul_(factor)
            else:
                total.addcmul_(s, factor)
        return total, None

    def _of_term(self, k: int, rows: slice, s: Tensor, values: Tensor) -> Tensor:
        """Writes the gradient over ``s``; returns its factor ``[c, 1]``, the weight taken in."""
        term, weight = self.terms[k], self.terms[k].weight[rows].to(self.dtype).unsqueeze(-1)
        factor = torch.empty_like(weight)
        for part in pieces(len(s), self.part):
            t = self.teacher_logits(term, moved(part, rows.start), term.loss.scale)
            for block in pieces(part.stop - part.start, self.block):
                here = moved(block, part.start)
                there = moved(here, rows.start)
                theirs = None if t is None else t[block]
                value, own = term.loss.gradient_(s[here], theirs, term.labels_of(there))
                values[k, there] = value
                factor[here] = 1.0 if own is None else own
        return factor * weight

    def teacher_logits(self, term: HeadTerm, rows: slice, scale: float) -> Tensor | None:
        """``[c, V']``, changed as they are compared; ``None`` without a teacher."""
        if term.hidden is None or term.head is None:
            return None
        hidden = term.hidden[rows]
        t = self.logits("teacher", hidden if scale == 1.0 else hidden * scale, term.head)
        return t if term.change is None else term.change(t)

    def pass_on(self, rows: slice, gradient: Tensor, factor: Tensor | None) -> None:
        """Adds a chunk's share to the gradients of hidden states and head."""
        by_hidden, by_head = self.gradients
        if gradient.dtype != self.head.dtype and factor is not None:
            gradient, factor = gradient.mul_(factor), None  # without it fp16 might not hold it
        if by_hidden is not None:
            if gradient.dtype == self.head.dtype == by_hidden.dtype:
                torch.mm(gradient, self.head, out=by_hidden[rows])
            else:
                by_hidden[rows] = torch.mm(gradient.to(self.head.dtype), self.head)
            if factor is not None:
                by_hidden[rows] *= factor
        if by_head is not None:
            hidden = self.hidden[rows] if factor is None else self.hidden[rows] * factor
            self._add_to_head(by_head, gradient, hidden, first=rows.start == 0)

    def _add_to_head(self, total: Tensor, gradient: Tensor, hidden: Tensor, first: bool) -> None:
        """``total [V', h] += gradient^T hidden``, added up in the type of ``total``; what it holds
        before the first time does not count."""
        if gradient.dtype == total.dtype:
            total.addmm_(gradient.t(), hidden.to(total.dtype), beta=0 if first else 1)
            return
        if first:
            total.zero_()
        if gradient.is_cuda:
            torch.addmm(total, gradient.t(), hidden, out_dtype=total.dtype, out=total)
        else:
            total += gradient.t() @ hidden

    def logits(self, name: str, hidden: Tensor, head: Tensor) -> Tensor:
        """``[c, V']`` in the buffer ``name``."""
        out = self.buffer(name, len(hidden), head.shape[0])
        if not hidden.dtype == head.dtype == out.dtype:
            return out.copy_(torch.mm(hidden.to(head.dtype), head.t()))
        width = _SLICE_BYTES // (head.shape[1] * head.itemsize) if head.is_cpu else len(head)
        for i in range(0, len(head), max(1, width)):
            torch.mm(hidden, head[i : i + width].t(), out=out[:, i : i + width])
        return out

    def buffer(self, name: str, rows: int, columns: int | None = None) -> Tensor:
        """``[rows, columns]``; as many columns as the head unless told."""
        width = self.head.shape[0] if columns is None else columns
        return self.space.take(name, rows, width, self.head, self.stored)


class KernelChunks(Chunks):
    """By kernels that read the logits as they are and add to one gradient buffer.

    Logits and their gradient keep the model's type; statistics, values and the head's gradient are
    fp32.
    """

    @staticmethod
    def fits(hidden: Tensor, head: Tensor, terms: Sequence[HeadTerm]) -> bool:
        """Whether there is a kernel for all of this, and no teacher would be rounded."""
        kernels = all(term.loss.has_kernel for term in terms)
        heads = [term.head for term in terms if term.head is not None]
        exact = all(torch.promote_types(x.dtype, head.dtype) == head.dtype for x in heads)
        fits = kernels and exact and fused_triton.takes(head) and len(hidden) > 0
        return fits and hidden.dtype == head.dtype

    @property
    def stored(self) -> torch.dtype:
        """As the head."""
        return self.head.dtype

    @property
    def buffers(self) -> float:
        """Student, the sum of several terms, teacher."""
        return min(len(self.terms), 2) + self.has_teacher

    def of_terms(self, rows: slice, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient of all terms, added up by the kernels."""
        logits = self.logits("student", self.hidden[rows], self.head)
        total = logits if len(self.terms) == 1 else self.buffer("total", len(logits))
        for k, term in enumerate(self.terms):
            t = self.teacher_logits(term, rows, 1.0)
            weight = term.weight[rows].contiguous()
            given = KernelRows(logits, t, term.labels_of(rows), weight, total, add=k > 0)
            values[k, rows] = term.loss.kernel(given)
        return total, None
