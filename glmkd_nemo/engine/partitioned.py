"""Weights of which a rank keeps only a part (DeepSpeed's ZeRO-3), whole for a while."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from megatron.core.dist_checkpointing.mapping import ShardedTensor
from torch import nn


def is_partitioned(model: nn.Module) -> bool:
    """Whether ZeRO-3 holds parameters of ``model``."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def whole(model: nn.Module, changes: bool = False) -> AbstractContextManager[Any]:
    """Inside, every rank has all of each parameter; all ranks enter together.

    Args:
        model: partitioned or not; one that is not is left alone.
        changes: the parameters are written to (equally on all ranks).
    """
    parameters = [p for p in model.parameters() if hasattr(p, "ds_id")]
    if not parameters:
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        parameters, modifier_rank=0 if changes else None
    )
    return context


def sharded_weights(module: Any) -> dict[str, Any]:
    """``module.sharded_state_dict()`` of a ModelPT; all ranks call it.

    Partitioned weights are gathered and copied to the host's memory, one copy per rank.
    """
    if not is_partitioned(module.glm):
        state: dict[str, Any] = module.sharded_state_dict()
        return state
    with whole(module.glm):
        return {name: _copied(value) for name, value in module.sharded_state_dict().items()}


def _copied(value: Any) -> Any:
    if not isinstance(value, ShardedTensor):
        return value
    return replace(value, data=value.data.detach().cpu().clone())
