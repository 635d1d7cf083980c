"""Megatron-Core's schedule, DDP and half-precision wrapper around model chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import Float16Module
from megatron.core.utils import get_model_config
from torch import Tensor

from glmkd_nemo.engine.optimizer import NAMES, check_optimizer_name
from glmkd_nemo.engine.overlap import ddp_settings
from glmkd_nemo.engine.waits import FillingCommunicator, default_groups

Batch = dict[str, Any]


def in_precision(model: Any) -> Any:
    """Wraps a model for fp16 or bf16 as its config says; outputs stay in fp32."""
    half = model.config.fp16 or model.config.bf16
    return Float16Module(model.config, model) if half else model


class _OnlyReplica(DistributedDataParallel):
    """Megatron-Core's DDP with nobody to reduce with: gloo would copy each buffer several times."""

    def start_grad_sync(self, *unused: Any) -> None:
        """Nothing."""

    def finish_grad_sync(self, *unused: Any, **ignored: Any) -> None:
        """Nothing: the gradients are the sums."""

    def start_param_sync(self, *unused: Any, **ignored: Any) -> None:
        """Nothing: the optimizer has updated the weights themselves."""


def wrap_in_ddp(
    chunks: list[Any], config: Any, optimizer: str, engine: Mapping[str, Any] | None = None
) -> list[Any]:
    """Wraps model chunks in Megatron-Core's DDP and equalises them over data-parallel ranks.

    Args:
        chunks: what :func:`in_precision` returned.
        config: the model's configuration.
        optimizer: ``model.optim.name``; the distributed one also shards optimizer state.
        engine: the section ``engine``: how gradients are reduced over data-parallel ranks.

    Raises:
        ValueError: unknown optimizer name, or a switch that would have no effect.
    """
    check_optimizer_name(optimizer)
    replicas = parallel_state.get_data_parallel_world_size(with_context_parallel=True)
    settings = DistributedDataParallelConfig(
        use_distributed_optimizer=optimizer == NAMES[0],
        grad_reduce_in_fp32=True,
        **ddp_settings(engine or {}, replicas),
    )
    kind = _OnlyReplica if replicas == 1 else DistributedDataParallel
    wrapped = [kind(config, settings, chunk) for chunk in chunks]
    if settings.overlap_grad_reduce:
        config.no_sync_func = wrapped[0].no_sync  # until the last micro-batch
    for chunk in wrapped:
        chunk.broadcast_params()
    return wrapped


def is_wrapped(chunks: list[Any]) -> bool:
    """Whether chunks are ready for training (see ``MegatronStrategy.wrap``)."""
    return any(hasattr(chunk, "zero_grad_buffer") for chunk in chunks)


def split(batch: Batch, micro_batch_size: int) -> list[Batch]:
    """Cuts a batch into micro-batches of ``micro_batch_size`` samples.

    Args:
        batch: ``{name: [b, ...]}``; a task's batch may have ``c`` sequences per sample, and has
            the entry ``task``, whose ``label [b]`` tells how many samples there are.
        micro_batch_size: samples of each part.

    Raises:
        ValueError: ``b`` is no multiple of ``micro_batch_size``.
    """
    task = batch.get("task")
    size = len(next(iter(batch.values())) if task is None else task.label)
    if size % micro_batch_size:
        raise ValueError(
            f"a batch of {size} samples cannot be cut into micro-batches of {micro_batch_size}: "
            "the loader must yield global_batch_size / data-parallel ranks samples"
        )
    count = size // micro_batch_size
    parts = {name: _cut(value, count) for name, value in batch.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(count)]


def _cut(value: Any, count: int) -> list[Any]:
    """``count`` equal parts of a tensor or array, or of all tensors of a dataclass."""
    if isinstance(value, Tensor):
        return list(value.split(len(value) // count))
    if isinstance(value, np.ndarray):
        return list(np.split(value, count))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return [value] * count
    cut = {f.name: _cut(getattr(value, f.name), count) for f in dataclasses.fields(value)}
    return [
        dataclasses.replace(value, **{name: part[i] for name, part in cut.items()})
        for i in range(count)
    ]


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A batch with a function applied to every tensor, those of dataclasses in it too."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: mapped(inner, function) for name, inner in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    names = [field.name for field in dataclasses.fields(value)]
    return type(value)(**{name: mapped(getattr(value, name), function) for name in names})


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
    forward_only: bool,
    copies: int = 1,
    communicator: FillingCommunicator | None = None,
) -> list[dict[str, Tensor]]:
    """Runs forward (and backward) over micro-batches with the schedule that fits the layout.

    Args:
        step: mcore's ``forward_step_func``.
        micro_batches: of this data-parallel rank, all of one shape.
        chunks: this rank's model chunks; one of another engine has a ``forward_backward`` of its
            own in place of the schedule.
        forward_only: no backward, no gradient.
        copies: how many times the step stacks a micro-batch for the model.
        communicator: of pipeline stages, in place of the schedule's own.

    Returns:
        What the loss functions returned, per micro-batch; empty before the last stage.

    Raises:
        ValueError: a length that sequence parallelism cannot cut.
    """
    rows, length = micro_batches[0]["input_ids"].shape
    _check_length(length, get_model_config(chunks[0]))
    schedule = getattr(chunks[0], "forward_backward", None) or get_forward_backward_func()
    handed: dict[str, Any] = {}
    if communicator is not None:
        handed = {"p2p_communicator": communicator, "pg_collection": default_groups()}
    results = schedule(
        forward_step_func=step,
        data_iterator=iter(micro_batches),
        model=chunks,
        num_microbatches=len(micro_batches),
        seq_length=length,
        micro_batch_size=rows * copies,
        forward_only=forward_only,
        **handed,
    )
    return [row for row in results if isinstance(row, dict)]


def _check_length(length: int, config: Any) -> None:
    tp = int(config.tensor_model_parallel_size)
    if config.sequence_parallel and length % tp:
        raise ValueError(
            f"sequences of {length} tokens cannot be cut for sequence parallelism over "
            f"model.tensor_model_parallel_size={tp}: choose a length that is a multiple of it "
            "(task.seq_length, model.encoder_seq_length), or model.sequence_parallel=false"
        )
