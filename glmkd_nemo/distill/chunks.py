"""Losses that compute large intermediate tensors in pieces, and their gradient with the value.

A sample's loss depends on that sample only, so its gradient for an upstream factor of 1 can be
written while the pieces are at hand; the backward multiplies it by the factor. What is kept between
forward and backward has the size of the inputs, whatever the pieces are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Elements of one buffer: what stays in a core's cache, or what keeps a GPU busy for longer than a
# kernel's start takes.
CPU_ELEMENTS, GPU_ELEMENTS = 2**18, 2**22

Gradients = tuple[Tensor | None, Tensor | None]
Compute = Callable[[Tensor, Tensor, Gradients], tuple[Tensor, Tensor | None]]


def with_gradient(
    compute: Compute, student: Tensor, teacher: Tensor
) -> tuple[Tensor, Tensor | None]:
    """A loss computed together with its gradient.

    Args:
        compute: of both inputs, without autograd, and of a zero tensor for the gradient of the sum
            on each (``None`` where none is wanted), to be filled: the loss ``[n]``, and what was
            counted for it (without gradient), if anything was.
        student, teacher: ``[n, ...]``; row ``i`` of the loss depends on their rows ``i`` only.

    Returns:
        The loss ``[n]``, and the count.

    Raises:
        RuntimeError: in the backward, if that is to be differentiated again.
    """
    wanted = tuple(torch.is_grad_enabled() and x.requires_grad for x in (student, teacher))
    value, count = _WithGradient.apply(compute, student, teacher, wanted)
    return value, count


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compute: Compute, student: Tensor, teacher: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor | None]:
        s, t = (
            torch.zeros_like(x, memory_format=torch.contiguous_format) if want else None
            for x, want in zip((student, teacher), wanted, strict=True)
        )
        value, count = compute(student.detach(), teacher.detach(), (s, t))
        ctx.save_for_backward(s, t)
        if count is not None:
            ctx.mark_non_differentiable(count)
        return value, count

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[None, Any, Any, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this loss has its gradient from the forward pass and cannot be differentiated "
                "twice: leave out create_graph=True."
            )
        s, t = (None if g is None else g * _as_rows(upstream, g) for g in ctx.saved_tensors)
        return None, s, t, None


def _as_rows(upstream: Tensor, gradient: Tensor) -> Tensor:
    return upstream.to(gradient.dtype).view(-1, *[1] * (gradient.dim() - 1))


def elements(x: Tensor) -> int:
    """How many elements a buffer on the device of ``x`` should have."""
    return GPU_ELEMENTS if x.is_cuda else CPU_ELEMENTS


def on_device(host: Tensor, like: Tensor) -> Tensor:
    """A host tensor on the device of ``like``, without waiting for what that has still to do."""
    if not like.is_cuda:
        return host.to(like.device)
    return host.pin_memory().to(like.device, non_blocking=True)


def pieces(total: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` (at least 1) that cover ``range(total)``."""
    for start in range(0, total, max(size, 1)):
        yield slice(start, min(start + max(size, 1), total))


def moved(rows: slice, by: int) -> slice:
    """The slice that starts and stops ``by`` later."""
    return slice(rows.start + by, rows.stop + by)


def even_size(n: int, most: int, step: int) -> int:
    """Length of pieces of ``n`` rows.

    Args:
        n: rows; 0 gives 1.
        most: rows that a piece may have.
        step: what the length should be a multiple of, where ``most`` is large enough.

    Returns:
        The smallest length with which there are no more pieces than necessary.
    """
    step = step if most >= step else 1
    count = max(1, -(-n // (most // step * step)))
    return -(-n // (count * step)) * step if n else 1


def blocks(matrices: int, rows: int, columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Cuts ``[matrices, rows, columns]`` into blocks of about ``size`` elements: several whole
    matrices, or rows of one."""
    for several in pieces(matrices, size // (rows * columns)):
        for part in pieces(rows, max(size // columns, 1)):
            yield several, part


class Buffers:
    """Tensors that are used again for each piece, as large as the largest that was asked for."""

    def __init__(self, like: Tensor, dtype: torch.dtype | None = None) -> None:
        self._like, self._dtype = like, dtype or like.dtype
        self._flat: dict[int | str, Tensor] = {}

    def get(self, which: int | str, *shape: int) -> Tensor:
        """Buffer ``which`` in this shape, with whatever was in it."""
        size = torch.Size(shape).numel()
        if which not in self._flat or self._flat[which].numel() < size:
            self._flat[which] = self._like.new_empty(size, dtype=self._dtype)
        return self._flat[which][:size].view(shape)
