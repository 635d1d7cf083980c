"""Pipeline parallelism of distillation: what travels, and losses of inner stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import make_sharded_tensor_for_checkpoint, make_viewless_tensor
from torch import Tensor

from glmkd_nemo.distill.taps import DERIVED, SHARDING, Tap, TapKey
from glmkd_nemo.models.config import GLMConfig


def activation_shape(config: GLMConfig, batch: int, sequence: int) -> tuple[int, int, int]:
    """Shape of what a stage of a model passes on to the next."""
    share = config.tensor_model_parallel_size if config.sequence_parallel else 1
    return sequence // share, batch, config.hidden_size


def tap_shape(key: TapKey, config: GLMConfig, batch: int, sequence: int) -> tuple[int, ...]:
    """Shape of a tap on one rank (see the table in ``taps.py``)."""
    heads = config.num_attention_heads // config.tensor_model_parallel_size
    if key[0] in DERIVED:
        return batch, config.hidden_size
    if key[0] in ("scores", "probs"):
        return batch, heads, sequence, sequence
    if SHARDING[key[0]] is not None:
        return batch, heads, sequence, config.kv_channels
    return batch, sequence, config.hidden_size


def tap_dtype(key: TapKey, config: GLMConfig) -> torch.dtype:
    """Type of a tap: the model's, but attention after the softmax is at least fp32."""
    if key[0] == "probs":
        return torch.promote_types(config.params_dtype, torch.float32)
    return config.params_dtype


def received_tap(key: TapKey, value: Tensor) -> Tap:
    """A tap as its producer had it."""
    return Tap(value, SHARDING[key[0]])


class _Attach(torch.autograd.Function):
    """The identity on an activation; in the backward the attached loss gets its gradient.

    (Megatron-Core's own ``MoEAuxLossAutoScaler`` does the same with one global scale, which a
    student with experts would overwrite.)
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, loss: Tensor, scale: Callable[[], Tensor]) -> Tensor:
        ctx.scale, ctx.loss = scale, (loss.shape, loss.dtype, loss.device)
        return activation

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        shape, dtype, device = ctx.loss
        return gradient, ctx.scale().to(device, dtype).reshape(shape), None


def attach(activation: Tensor, loss: Tensor, scale: Callable[[], Tensor]) -> Tensor:
    """Ties a loss of this stage to the activation that it sends on.

    Args:
        activation: the stage's output.
        loss: scalar.
        scale: what the schedule multiplies its own loss with (loss scale / micro-batches), a
            scalar, asked for in the backward.
    """
    return viewless(_Attach.apply(activation, loss, scale))


def viewless(activation: Tensor) -> Tensor:
    """The same tensor, no view: the schedule frees outputs that it has sent and refuses views."""
    if not activation.requires_grad:
        return activation
    return make_viewless_tensor(activation, requires_grad=True, keep_graph=True)


def sum_over_stages(module: torch.nn.Module) -> None:
    """Adds up the gradients of a module that every stage holds a copy of (methods' projections).

    To be called after the backward and before data-parallel reduction; works on ``main_grad`` where
    Megatron-Core's DDP keeps gradients there.
    """
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return
    group = parallel_state.get_pipeline_model_parallel_group()
    for parameter in module.parameters():
        gradient = getattr(parameter, "main_grad", None)
        if gradient is None:
            gradient = parameter.grad
        if gradient is not None:
            dist.all_reduce(gradient, group=group)


def mark_shared(module: torch.nn.Module) -> None:
    """Marks copies on later stages, so that the gradient norm counts each parameter once."""
    if parallel_state.get_pipeline_model_parallel_rank() > 0:
        for parameter in module.parameters():
            parameter.shared = True  # type: ignore[attr-defined]


def replicated_tensors(parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Sharded tensors of parameters that every rank holds: the first of all writes them."""
    place = (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_data_parallel_rank(with_context_parallel=True),
    )
    return {
        f"{prefix}{name}": make_sharded_tensor_for_checkpoint(
            parameter, f"{prefix}{name}", replica_id=place
        )
        for name, parameter in parameters.items()
    }
