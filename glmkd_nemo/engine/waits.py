"""Messages that arrive while other work is done (gloo, which has no stream of its own).

gloo tells that a message has arrived to nobody but a thread that waits for it. So a thread waits,
and the main one is free to work; NCCL's messages need none of this.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.process_groups_config import ProcessGroupCollection

LONGEST = timedelta(days=1)  # a message of the next step may have to outlast a validation
Fill = Callable[[Sequence["Future[None]"]], None]


class Watcher:
    """A thread that waits for messages, one after the other.

    Args:
        bell: set whenever one is through.
        patient: messages may take longer than the processes' time limit, which else holds.
    """

    def __init__(self, bell: threading.Event, patient: bool = False) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        limit = (LONGEST,) if patient else ()
        threading.Thread(target=_watch, args=(self._queue, bell, limit), daemon=True).start()
        weakref.finalize(self, self._queue.put, None)

    def watch(self, work: Any, keep: Any = None) -> Future[None]:
        """Has the thread wait.

        Args:
            work: what ``torch.distributed`` returned.
            keep: kept alive until then, e.g. the tensor that is sent.

        Returns:
            Done when the message is through; with the error, if there was one.
        """
        future: Future[None] = Future()
        self._queue.put((work, keep, future))
        return future


def _watch(queue: SimpleQueue[Any], bell: threading.Event, limit: tuple[timedelta, ...]) -> None:
    while (entry := queue.get()) is not None:
        work, _, future = entry
        try:
            work.wait(*limit)
        except Exception as error:  # noqa: BLE001  (raised again where the message is wanted)
            future.set_exception(error)
        else:
            future.set_result(None)
        del entry, work, future, _  # the next message may be long in coming
        bell.set()


class FillingCommunicator(P2PCommunicator):
    """Messages of Megatron-Core's schedule; where it would wait for one, ``fill`` is called.

    Args:
        config: the student's.
        bell: rung whenever a message has arrived.
        fill: works until the messages that it is given have arrived.
    """

    def __init__(self, config: Any, bell: threading.Event, fill: Fill) -> None:
        own = copy.copy(config)
        own.batch_p2p_comm = False  # so that messages can be waited for one by one
        super().__init__(parallel_state.get_pipeline_model_parallel_group(), own)
        self._fill, self._arrivals, self._departures = fill, Watcher(bell), Watcher(bell)

    def wait(self, works: Sequence[Any]) -> None:
        """Fills the time until all is through."""
        self._fill([self._arrivals.watch(work) for work in works])

    def _communicate(self, *, wait_on_reqs: bool = True, **messages: Any) -> Any:
        before, after, works = super()._communicate(wait_on_reqs=False, **messages)
        sent = (messages["tensor_send_next"], messages["tensor_send_prev"])
        # the schedule may free an output that it takes for sent: the alias keeps the memory
        aliases = [x.detach() for x in sent if isinstance(x, torch.Tensor)]
        for name, work in works.items():
            if name.startswith("send"):
                self._departures.watch(work, aliases)
        self.wait([work for name, work in works.items() if name.startswith("recv")])
        return before, after, None


def default_groups() -> ProcessGroupCollection:
    """The process groups that a schedule takes by itself where it is handed no communicator."""
    return ProcessGroupCollection.use_mpu_process_groups(
        ["tp", "pp", "cp", "embd", "pos_embd", "dp_cp"]
    )
