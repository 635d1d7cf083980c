"""Megatron-Core's schedule, DDP and half-precision wrapper around model chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import Float16Module
from torch import Tensor

from glmkd_nemo.engine.optimizer import NAMES, check_optimizer_name

Batch = dict[str, Tensor]


def in_precision(model: Any) -> Any:
    """Wraps a model for fp16 or bf16 as its config says; outputs stay in fp32."""
    half = model.config.fp16 or model.config.bf16
    return Float16Module(model.config, model) if half else model


def wrap_in_ddp(chunks: list[Any], config: Any, optimizer: str) -> list[Any]:
    """Wraps model chunks in Megatron-Core's DDP and equalises them over data-parallel ranks.

    Args:
        chunks: what :func:`in_precision` returned.
        config: the model's configuration.
        optimizer: ``model.optim.name``; the distributed one also shards optimizer state.

    Raises:
        ValueError: unknown optimizer name.
    """
    check_optimizer_name(optimizer)
    settings = DistributedDataParallelConfig(
        use_distributed_optimizer=optimizer == NAMES[0],
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=False,
    )
    wrapped = [DistributedDataParallel(config, settings, chunk) for chunk in chunks]
    for chunk in wrapped:
        chunk.broadcast_params()
    return wrapped


def is_wrapped(chunks: list[Any]) -> bool:
    """Whether :func:`wrap_in_ddp` has been applied."""
    return any(isinstance(chunk, DistributedDataParallel) for chunk in chunks)


def split(batch: Batch, micro_batch_size: int) -> list[Batch]:
    """Cuts a batch ``{name: [b, ...]}`` into micro-batches ``{name: [micro_batch_size, ...]}``.

    Raises:
        ValueError: ``b`` is no multiple of ``micro_batch_size``.
    """
    size = len(next(iter(batch.values())))
    if size % micro_batch_size:
        raise ValueError(
            f"a batch of {size} samples cannot be cut into micro-batches of {micro_batch_size}: "
            "the loader must yield global_batch_size / data-parallel ranks samples"
        )
    parts = {name: value.split(micro_batch_size) for name, value in batch.items()}
    return [{n: part[i] for n, part in parts.items()} for i in range(size // micro_batch_size)]


def with_total(step: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the total as part ``loss``, and detaches and copies all parts.

    mcore divides the returned loss in place by the number of micro-batches; a part that shares
    its memory would change too.
    """

    def step_with_total(data_iterator: Any, model: Any) -> Any:
        output, loss_function = step(data_iterator, model)

        def total(out: Any) -> tuple[Tensor, dict[str, Tensor]]:
            loss, parts = loss_function(out)
            return loss, {k: v.detach().clone() for k, v in {"loss": loss, **parts}.items()}

        return output, total

    return step_with_total


def run(
    step: Callable[..., Any],
    micro_batches: Sequence[Mapping[str, Any]],
    chunks: list[Any],
    seq_length: int,
    micro_batch_size: int,
    forward_only: bool,
) -> list[dict[str, Tensor]]:
    """Runs forward (and backward) over micro-batches with the schedule that fits the layout.

    Args:
        step: mcore's ``forward_step_func``.
        micro_batches: of this data-parallel rank.
        chunks: this rank's model chunks.
        seq_length: rows of the tensors between pipeline stages.
        micro_batch_size: their second dimension.
        forward_only: no backward, no gradient.

    Returns:
        What the loss functions returned, per micro-batch; empty before the last stage.
    """
    results = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(micro_batches),
        model=chunks,
        num_microbatches=len(micro_batches),
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        forward_only=forward_only,
    )
    return [row for row in results if isinstance(row, dict)]


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` holds on any rank (all ranks call it)."""
    if torch.distributed.get_world_size() == 1:
        return flag
    value = torch.tensor([int(flag)], device=device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return bool(int(value))
