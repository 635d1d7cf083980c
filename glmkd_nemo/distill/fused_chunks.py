"""The pass over chunks of rows behind the fused head: on any device, and by kernels on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glmkd_nemo.distill import fused_triton
from glmkd_nemo.distill.chunks import Buffers
from glmkd_nemo.distill.losses import at_least_fp32
from glmkd_nemo.distill.parallel import tp_size
from glmkd_nemo.distill.row_loss import KernelRows, RowLoss

_ROWS_HELD = 176  # by all chunk buffers together, on a CPU: more is hardly faster
_SHARE_HELD = 0.18  # of the rows, elsewhere: a large matrix product fills a GPU
_VECTOR = 8  # a CPU multiplies a whole number of vector registers
_BLOCK_BYTES = 2**20  # of a chunk that a CPU's caches hold while its loss is taken
_SLICE_BYTES = 2**21  # of a head that they hold while few rows are multiplied with it


def rows_held(rows: int) -> int:
    """Rows of fp32 logits that chunk buffers take on a GPU, for a loss on so many rows."""
    return max(_ROWS_HELD, int(_SHARE_HELD * rows))


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


class Workspace:
    """Chunk buffers that live from step to step: fresh memory costs a fault per page.

    Args:
        rows: rows of logits that all buffers together may hold; ``None``: as fits the device.
    """

    def __init__(self, rows: int | None = None) -> None:
        self._rows = rows
        self._buffers: dict[tuple[torch.dtype, torch.device], Buffers] = {}

    def rows(self, like: Tensor) -> int:
        """How many rows of logits the buffers may hold for hidden states ``[n, h]``."""
        if self._rows is not None:
            return self._rows
        return _ROWS_HELD if like.is_cpu else rows_held(len(like))

    def take(self, name: str, rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """``[rows, columns]``, uninitialised; the same memory for the same ``name``."""
        key = dtype, like.device
        if key not in self._buffers:
            self._buffers[key] = Buffers(like.new_empty(0), dtype)
        return self._buffers[key].get(name, rows, columns)


class Chunks:
    """One pass over the chunks.

    A chunk's gradient by the logits keeps a factor per row apart, see ``RowLoss.gradient_``: it is
    cheaper to multiply hidden states with. Of several terms the sum is formed in a third buffer.

    Args:
        hidden, head, terms, space: see :func:`~glmkd_nemo.distill.fused_kl.head_losses`.
        wanted: which of ``hidden`` and ``head`` need a gradient.

    Attributes:
        gradients: of the weighted sum by ``hidden`` and ``head``, in multiples of ``unit``, as tiny
            ones would vanish in fp16; ``None`` where not wanted.
        unit: scalar, the mean weight of a row.
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
        mean = torch.stack([t.weight.abs().sum() for t in terms]).amax() / max(len(hidden), 1)
        self.unit = torch.where(mean > 0, mean, torch.ones_like(mean)).to(self.dtype)
        self.terms = [replace(t, weight=(t.weight / self.unit).to(self.dtype)) for t in terms]
        self.gradients: tuple[Tensor | None, Tensor | None] = (
            hidden.new_empty(hidden.shape, dtype=self.stored) if wanted[0] else None,
            head.new_empty(head.shape, dtype=self.dtype) if wanted[1] else None,
        )
        n = len(hidden)
        if n == 0 and self.gradients[1] is not None:
            self.gradients[1].zero_()  # else the first chunk writes it
        held = space.rows(hidden) * 4 // self.stored.itemsize  # counted in fp32
        held = max(1, held // self.buffers)
        self.chunk = -(-n // -(-n // held)) if n else 1
        if hidden.is_cpu and held >= _VECTOR:
            self.chunk = min(-(-self.chunk // _VECTOR), held // _VECTOR) * _VECTOR
        row = max(1, head.shape[0] * self.dtype.itemsize)
        self.block = max(1, _BLOCK_BYTES // row) if hidden.is_cpu else self.chunk
        if tp_size() > 1:  # each block is a round of messages
            self.block = max(self.block, -(-self.chunk // 4))

    @property
    def stored(self) -> torch.dtype:
        """Type of logits and of their gradient."""
        return self.dtype

    @property
    def buffers(self) -> int:
        """How many tensors of a chunk's rows there are."""
        return 2 if len(self.terms) == 1 else 3

    def run(self) -> Tensor:
        """Takes all losses and gradients; returns the values ``[terms, n]``."""
        n = len(self.hidden)
        values = self.hidden.new_empty(len(self.terms), n, dtype=self.dtype)
        for start in range(0, n, self.chunk):
            rows = slice(start, min(start + self.chunk, n))
            self.pass_on(rows, *self.of_terms(rows, values))
        return values

    def of_terms(self, rows: slice, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradient by the logits of a chunk, and its factor by row."""
        if len(self.terms) == 1:
            scale = self.terms[0].loss.scale
            s = self.logits("student", self.hidden[rows] * scale, self.head)
            return s, self._of_term(0, rows, s, values)
        logits = self.logits("student", self.hidden[rows], self.head)
        total, s = self.buffer("total", len(logits)).zero_(), self.buffer("gradient", len(logits))
        for k, term in enumerate(self.terms):
            torch.mul(logits, term.loss.scale, out=s)
            total.addcmul_(s, self._of_term(k, rows, s, values))
        return total, None

    def _of_term(self, k: int, rows: slice, s: Tensor, values: Tensor) -> Tensor:
        """Writes the gradient over ``s``; returns its factor ``[c, 1]``, the weight taken in."""
        term, block = self.terms[k], self.block
        weight = term.weight[rows].to(self.dtype).unsqueeze(-1)
        t = self.teacher_logits(term, rows, term.loss.scale)
        factor = torch.empty_like(weight)
        for i in range(0, len(s), block):
            here = slice(i, min(i + block, len(s)))
            there = slice(rows.start + here.start, rows.start + here.stop)
            theirs = None if t is None else t[here]
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
