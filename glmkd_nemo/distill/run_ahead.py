"""Frozen teachers that work ahead of their student, in its waiting times or on a side stream.

A teacher that does not learn gives the same taps whenever it runs. So the taps of a micro-batch are
made when the student asks for them, or earlier:

- in the waiting times of the pipeline's schedule (gloo; ``fills``). What is done when is decided
  by each stage as it goes: every link carries the micro-batches in their order on all stages, and
  nobody waits for a message to leave, so no decision can block another stage. Tensor-parallel
  ranks of a stage do as their first one does, as they compute together;
- else so many micro-batches ahead, with CUDA on a stream of their own.

Both may go on with the next optimizer step's micro-batches, which do not depend on the optimizer.
A queue holds the taps, at most so many micro-batches' as ``Bounds`` says.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from glmkd_nemo.distill.ahead_bounds import Bounds
from glmkd_nemo.distill.lane import Expected, Job, TeacherLane
from glmkd_nemo.distill.mapped_input import read_by
from glmkd_nemo.distill.method import StepContext
from glmkd_nemo.distill.micro_batch import MicroBatch, Pass, numbered, prepared
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.routes import Routes
from glmkd_nemo.distill.side_stream import SideStream
from glmkd_nemo.distill.taps import TapKey
from glmkd_nemo.engine.waits import FillingCommunicator

POSTED = 2  # messages of so many forwards are received ahead of their turn


class RunAhead:
    """The queue of a stage.

    Args:
        config: the student's.
        objective: the terms.
        routes: who needs what.
        lanes: of the teachers, by name.
        bounds: how far teachers may be ahead.

    Attributes:
        fills: whether the schedule's waiting times are filled.
        peak: most micro-batches whose taps were in the queue at a time.
        filled: forwards of a teacher that were done in waiting times.
    """

    def __init__(
        self,
        config: Any,
        objective: Objective,
        routes: Routes,
        lanes: Mapping[str, TeacherLane],
        bounds: Bounds,
    ) -> None:
        self._config, self._objective, self._routes = config, objective, routes
        self._lanes, self.bounds = dict(lanes), bounds
        self._bell = threading.Event()
        on_gloo = routes.last > 0 and not torch.cuda.is_available()
        self.fills = on_gloo and bounds.micro_batches > 0
        if self.fills:
            routes.teacher_links.watch(self._bell)
        beside = torch.cuda.is_available() and bounds.micro_batches > 0
        self._side = SideStream() if beside else None
        self._jobs: deque[Job] = deque()
        self._complete = 0  # so many jobs, the first ones, have all their taps
        self._model: Any = None
        self.peak = self.filled = 0

    @cached_property
    def communicator(self) -> FillingCommunicator | None:
        """What the schedule has to send and receive with; ``None`` for its own."""
        return FillingCommunicator(self._config, self._bell, self.fill) if self.fills else None

    def look_ahead(self, model: Any, passes: Sequence[Pass]) -> None:
        """Takes notice of the micro-batches to come, before the schedule of a step.

        Args:
            model: this stage of the student.
            passes: of this step and, where it is known, of the next.
        """
        if not self.bounds.micro_batches or not self._lanes:
            return
        self._model = model
        known = list(dict.fromkeys(job.owner for job in self._jobs))
        if known != [(p.context, p.number) for p in passes[: len(known)]]:
            self.drop()
            known = []
        if self._side is not None:
            self._side.see()
        for coming in passes[len(known) :]:
            parts = self._objective.parts(coming.context)
            needs = {name: lane.needs(parts) for name, lane in self._lanes.items()}
            count = len(coming.micro_batches)
            for i, fields in enumerate(coming.micro_batches):
                owner = (coming.context, coming.number)
                job = Job(owner, numbered(coming.context, i, count), fields, needs)
                self._jobs.append(job)

    def take(
        self, fields: Mapping[str, Any], context: StepContext, model: Any
    ) -> tuple[MicroBatch, dict[str, dict[TapKey, Any]]]:
        """The student's next micro-batch, and the teachers' taps of it, by name."""
        if not self._jobs:
            self._model = model
            needs = {name: lane.needs(self._routes.parts) for name, lane in self._lanes.items()}
            self._jobs.append(Job((context, None), context, fields, needs))
        job = self._jobs[0]
        assert job.context == context, f"{context} was not foreseen"
        while not self._complete:
            self._run()
        self._jobs.popleft()
        self._complete -= 1
        if self._side is not None:
            self._side.hand_over(job.event, [job.micro, job.taps])
        if not self.fills:
            while self._complete < self._limit:
                self._run()
        assert job.micro is not None
        return job.micro, job.taps

    @property
    def _limit(self) -> int:
        """So many of the jobs in the queue may be complete."""
        return min(self.bounds.micro_batches, len(self._jobs))

    def fill(self, messages: Sequence[Future[None]]) -> None:
        """Runs teachers until the messages have arrived, and waits where there is nothing to do."""
        while messages and self._agreed(self._is_time(messages)):
            self._run()
            self.filled += 1
        for message in messages:
            message.result()

    def wait_for_stages(self) -> None:
        """Fills the time until all stages of the pipeline are here (at the end of a step)."""
        if self.communicator is not None:
            group = parallel_state.get_pipeline_model_parallel_group()
            self.communicator.wait([dist.all_reduce(torch.zeros(1), group=group, async_op=True)])

    def finish(self) -> None:
        """At the end of a pass: messages have left, but for those of the next step."""
        if not self._jobs:
            self._routes.teacher_links.flush()

    def drop(self) -> None:
        """Gives up what is in the queue; all stages do so, at the same time.

        Other stages may have sent messages for it already: what is begun is brought to its end.
        """
        while self._complete < len(self._jobs):
            self._run()
        self._jobs.clear()
        self._complete = 0
        self._routes.teacher_links.flush()

    def _is_time(self, messages: Sequence[Future[None]]) -> bool:
        """Whether there is time for a forward, asked on the first tensor-parallel rank."""
        if parallel_state.get_tensor_model_parallel_rank() > 0:
            return False
        while True:
            self._bell.clear()
            if all(message.done() for message in messages):
                return False
            if self._is_ready():
                return True
            self._bell.wait()

    def _agreed(self, flag: bool) -> bool:
        """What the first tensor-parallel rank of the stage says."""
        if parallel_state.get_tensor_model_parallel_world_size() == 1:
            return flag
        said = torch.tensor([int(flag)])
        first = parallel_state.get_tensor_model_parallel_src_rank()
        dist.broadcast(said, first, group=parallel_state.get_tensor_model_parallel_group())
        return bool(said)

    def _is_ready(self) -> bool:
        """Whether a forward can be run without waiting."""
        if self._complete >= self._limit:
            return False
        job, name = next(self._open())
        return self._expected(job, name).here()

    def _open(self) -> Iterator[tuple[Job, str]]:
        """Forwards to be run, in their order."""
        for job in list(self._jobs)[self._complete :]:
            for name in self._lanes:
                if name not in job.taps:
                    yield job, name

    def _run(self) -> None:
        """Runs the next forward; a job without teachers is complete by itself."""
        job = self._jobs[self._complete]
        with nullcontext() if self._side is None else self._side.work():
            self._prepare(job)
            for posted in islice(self._open(), POSTED if self.fills else 1):
                self._expected(*posted)
            if (name := job.next_of(self._lanes)) is not None:
                job.taps[name] = self._lanes[name].run(
                    job.read[name], job.edits(name), job.needs[name], job.expected.pop(name)
                )
            if self._side is not None:
                job.event = self._side.done()
        if job.next_of(self._lanes) is None:
            self._complete += 1
            self.peak = max(self.peak, self._complete)

    def _expected(self, job: Job, name: str) -> Expected:
        """The messages for a forward; receiving them begins here."""
        if name not in job.expected:
            self._prepare(job)
            job.expected[name] = self._lanes[name].expect(job.read[name], job.needs[name])
        return job.expected[name]

    def _prepare(self, job: Job) -> None:
        if job.micro is None:
            job.micro = prepared(job.fields, job.context, self._objective)
            for name in self._lanes:
                job.read[name] = read_by(name, job.micro.whole, self._objective, self._model)
