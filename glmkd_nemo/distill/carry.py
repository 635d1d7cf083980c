"""Small student tensors, with their gradient, from earlier pipeline stages to a later one.

A loss on tensors of several stages is computed on the last of these. Values go there in the forward
of a micro-batch, gradients come back in its backward: Megatron-Core's schedules run a stage's
backward of a micro-batch after that of every later stage, so the gradient is always under way
already when the earlier stage waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glmkd_nemo.distill.links import Links


class Form(NamedTuple):
    """Shape and type of a carried tensor, which both ends know."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class _Give(torch.autograd.Function):
    """The identity on an activation; in the backward the gradients of the given tensors arrive."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, links: Links, to: int, *given: Tensor) -> Tensor:
        ctx.links, ctx.to = links, to
        ctx.forms = [Form(tuple(x.shape), x.dtype) for x in given]
        return activation

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        back = [ctx.links.receive(form.shape, form.dtype, ctx.to) for form in ctx.forms]
        return gradient, None, None, *back


class _Take(torch.autograd.Function):
    """Received tensors as leaves of this stage's graph; their gradients go back to the source."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, anchor: Tensor, links: Links, source: int, forms: Sequence[Form]
    ) -> tuple[Tensor, ...]:
        ctx.links, ctx.source = links, source
        return tuple(links.receive(form.shape, form.dtype, source) for form in forms)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, None]:
        for gradient in gradients:
            ctx.links.send(gradient, ctx.source)
        return None, None, None, None


class _Tie(torch.autograd.Function):
    """The identity on a loss whose backward passes through ``tensors``, used in it or not."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return gradient, *(torch.zeros_like(x) for x in ctx.saved_tensors)


def give(activation: Tensor, tensors: Sequence[Tensor], links: Links, to: int) -> Tensor:
    """Sends tensors to a later stage and ties them to the activation that goes on.

    Args:
        activation: the stage's output.
        tensors: on this stage's graph.
        to: the later stage, which must :func:`take` them in the same order.
    """
    for x in tensors:
        links.send(x, to)
    if not torch.is_grad_enabled():
        return activation
    tied: Tensor = _Give.apply(activation, links, to, *tensors)
    return tied


def take(forms: Sequence[Form], links: Links, source: int) -> tuple[Tensor, ...]:
    """Receives what an earlier stage gave; on this stage's graph."""
    anchor = torch.zeros((), requires_grad=torch.is_grad_enabled())
    taken: tuple[Tensor, ...] = _Take.apply(anchor, links, source, tuple(forms))
    return taken


def tie(loss: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The loss, its backward certain to reach all taken tensors: their sources wait for it."""
    needing = [x for x in tensors if x.requires_grad]
    if not needing:
        return loss
    tied: Tensor = _Tie.apply(loss, *needing)
    return tied
