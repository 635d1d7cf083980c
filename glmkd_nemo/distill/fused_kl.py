"""Prediction head and prediction losses in one: no tensor of all positions and tokens is made.

A few rows at a time go through the student's head and the teachers', the losses of these rows are
taken, and their gradients go on at once to the hidden states and to the head's weight, which are
all that is kept (as first done for cross-entropy by Cut Your Losses, arXiv 2411.09009, and by Liger
Kernel, arXiv 2410.10989). Kept for the backward: ``[n, h]`` and ``[V', h]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill.fused_chunks import Chunks, HeadTerm, KernelChunks
from glmkd_nemo.distill.main_grad import main_grad
from glmkd_nemo.distill.workspace import Workspace

__all__ = ["HeadTerm", "Workspace", "head_losses"]


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
        form = KernelChunks if KernelChunks.fits(hidden, head, terms) else Chunks
        chunks = form(hidden, head, terms, space, ctx.needs_input_grad[:2])
        values = chunks.run()
        ctx.gradients, ctx.unit = chunks.gradients, chunks.unit
        ctx.total, ctx.space = main_grad(head), space
        ctx.mark_non_differentiable(values)
        weights = torch.stack([term.weight.to(values.dtype) for term in terms])
        return (values * weights).sum(), values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Any, ...]:  # type: ignore[override]
        if ctx.gradients is None:
            raise RuntimeError("the fused head's gradients are given out once, they have been")
        factor = upstream.to(ctx.unit.dtype) * ctx.unit
        hidden, head = ctx.gradients
        ctx.gradients = None
        if head is not None and ctx.total is not None:
            ctx.total.add_(head, alpha=factor.item())  # on a CPU, where a value waits for nobody
            ctx.space.give_back(head)
            head = None
        hidden, head = (None if g is None else g.mul_(factor) for g in (hidden, head))
        return hidden, head, None, None
