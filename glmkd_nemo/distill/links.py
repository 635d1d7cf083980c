"""Point-to-point messages of distillation between pipeline stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor


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
        """Starts sending to another stage."""
        x = x.detach().contiguous()
        work = dist.isend(x, self._ranks[to], group=self._groups[self.stage, to])
        self._in_flight.append((x, work))

    def receive(self, shape: Sequence[int], dtype: torch.dtype, source: int) -> Tensor:
        """Waits for the next message of another stage."""
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
