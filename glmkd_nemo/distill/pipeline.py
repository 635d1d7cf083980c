"""Pipeline parallelism of distillation: the teacher's own messages, and losses of inner stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import make_sharded_tensor_for_checkpoint, make_viewless_tensor
from torch import Tensor

from glmkd_nemo.distill.taps import DERIVED, SHARDING, Tap, TapKey
from glmkd_nemo.models.config import GLMConfig


class Links:
    """Point-to-point messages between pipeline stages, apart from the student's.

    Each directed pair of stages has a communicator of its own, on which messages keep their order;
    sends are never waited for inside a step. So no order of forwards and backwards that
    Megatron-Core chooses can block them, and the student's backward messages carry its own
    gradients only.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        mine = dist.get_process_group_ranks(parallel_state.get_pipeline_model_parallel_group())
        self._ranks = mine
        self.stage = parallel_state.get_pipeline_model_parallel_rank()
        self._groups: dict[tuple[int, int], Any] = {}
        pairs = sorted(set(pairs))
        for ranks in _all_pipelines(mine) if pairs else []:
            for i, j in pairs:  # every process has to take part in making every group
                group = dist.new_group([ranks[i], ranks[j]])
                if ranks == mine and self.stage in (i, j):
                    self._groups[i, j] = group
        self._in_flight: list[tuple[Tensor, Any]] = []

    def send(self, x: Tensor, to: int) -> None:
        """Starts sending to a later stage."""
        x = x.detach().contiguous()
        work = dist.isend(x, self._ranks[to], group=self._groups[self.stage, to])
        self._in_flight.append((x, work))

    def receive(self, shape: Sequence[int], dtype: torch.dtype, source: int) -> Tensor:
        """Waits for the next message of an earlier stage."""
        x = torch.empty(*shape, dtype=dtype, device=torch.cuda.current_device())
        dist.recv(x, self._ranks[source], group=self._groups[source, self.stage])
        return x

    def flush(self) -> None:
        """Waits until all messages have left; called after the schedule."""
        for _, work in self._in_flight:
            work.wait()
        self._in_flight.clear()


def _all_pipelines(mine: list[int]) -> list[list[int]]:
    """Global ranks of every pipeline of the job, in one order on all ranks."""
    found: list[list[int]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, mine)
    return sorted({tuple(ranks): ranks for ranks in found}.values())


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
        return batch, heads, sequence, config.hidden_size // config.num_attention_heads
    return batch, sequence, config.hidden_size


def received_tap(key: TapKey, value: Tensor) -> Tap:
    """A tap as its producer had it."""
    return Tap(value, SHARDING[key[0]])


class _Attach(torch.autograd.Function):
    """The identity on an activation; in the backward the attached loss gets its gradient.

    (Megatron-Core's own ``MoEAuxLossAutoScaler`` does the same with one global scale, which a
    student with experts would overwrite.)
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, loss: Tensor, scale: Callable[[], float]) -> Tensor:
        ctx.scale, ctx.loss = scale, (loss.shape, loss.dtype, loss.device)
        return activation

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        shape, dtype, device = ctx.loss
        return gradient, torch.full(shape, ctx.scale(), dtype=dtype, device=device), None


def attach(activation: Tensor, loss: Tensor, scale: Callable[[], float]) -> Tensor:
    """Ties a loss of this stage to the activation that it sends on.

    Args:
        activation: the stage's output.
        loss: scalar.
        scale: what the schedule multiplies its own loss with (loss scale / micro-batches), asked
            for in the backward.
    """
    tied = _Attach.apply(activation, loss, scale)
    # the schedule frees outputs that it has sent and refuses views
    return make_viewless_tensor(tied, requires_grad=True, keep_graph=True)


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
