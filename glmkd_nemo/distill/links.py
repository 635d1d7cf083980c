"""Point-to-point messages of distillation between pipeline stages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.engine.waits import Watcher


class Receipt(NamedTuple):
    """A message that is expected: whether it is ``here``, and how to ``get`` it (once)."""

    here: Callable[[], bool]
    get: Callable[[], Tensor]


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
        self._watchers: tuple[Watcher, Watcher] | None = None

    def watch(self, bell: threading.Event) -> None:
        """From now on threads wait for messages (gloo), and ring the bell when one has arrived."""
        self._watchers = Watcher(bell, patient=True), Watcher(bell, patient=True)

    def send(self, x: Tensor, to: int) -> None:
        """Starts sending to another stage."""
        x = x.detach().contiguous()
        work = dist.isend(x, self._ranks[to], group=self._groups[self.stage, to])
        if self._watchers is not None:
            self._watchers[1].watch(work, x)
            return
        self._in_flight = [sent for sent in self._in_flight if not sent[1].is_completed()]
        self._in_flight.append((x, work))

    def receive(self, shape: Sequence[int], dtype: torch.dtype, source: int) -> Tensor:
        """Waits for the next message of another stage."""
        x = self._empty(shape, dtype)
        dist.recv(x, self._ranks[source], group=self._groups[source, self.stage])
        return x

    def expect(self, shape: Sequence[int], dtype: torch.dtype, source: int) -> Receipt:
        """The next message of another stage; it is received by and by where threads wait."""
        if self._watchers is None:
            return Receipt(lambda: False, lambda: self.receive(shape, dtype, source))
        x = self._empty(shape, dtype)
        work = dist.irecv(x, self._ranks[source], group=self._groups[source, self.stage])
        arrival = self._watchers[0].watch(work)

        def get() -> Tensor:
            arrival.result()
            return x

        return Receipt(arrival.done, get)

    def flush(self) -> None:
        """Waits until all messages have left; called after the schedule."""
        for _, work in self._in_flight:
            work.wait()
        self._in_flight.clear()

    @staticmethod
    def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=torch.cuda.current_device())


def _all_pipelines(mine: list[int]) -> list[list[int]]:
    """Global ranks of every pipeline of the job, in one order on all ranks."""
    found: list[list[int]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, mine)
    return sorted({tuple(ranks): ranks for ranks in found}.values())
