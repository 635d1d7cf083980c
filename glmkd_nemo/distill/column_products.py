"""Inner products of the columns of two tall matrices, such as word embeddings.

They stand in for products with every row where those are only squared and summed: over rows ``w``
and ``v``, ``sum (w x - v y)^2`` is ``x W^T W x - 2 x W^T V y + y V^T V y``. In fp64, as the three
nearly cancel once a student has learnt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill.parallel import all_sum

_ROWS = 4096  # in fp64 at a time


def column_products(a: Tensor, b: Tensor) -> Tensor:
    """``a^T b`` over the rows of all tensor-parallel ranks.

    Args:
        a: ``[V', h]``, this rank's rows.
        b: ``[V', k]``.

    Returns:
        ``[h, k]`` in fp64, equal on all ranks; differentiable once.
    """
    products: Tensor = _Products.apply(a, b)
    return all_sum(products)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.same = a is b
        total = a.new_zeros(a.shape[1], b.shape[1], dtype=torch.float64)
        for x, y in zip(a.split(_ROWS), b.split(_ROWS), strict=True):
            total.addmm_(x.double().t(), y.double())
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        if ctx.same:
            return _times(a, upstream + upstream.t()), None
        by_a, by_b = ctx.needs_input_grad
        return _times(b, upstream.t()) if by_a else None, _times(a, upstream) if by_b else None


def _times(x: Tensor, factor: Tensor) -> Tensor:
    """``[V', h]`` times ``[h, k]`` in fp64, in the type of ``x``."""
    out = x.new_empty(len(x), factor.shape[1])
    for some, rows in zip(x.split(_ROWS), out.split(_ROWS), strict=True):
        rows.copy_(some.double() @ factor)
    return out
