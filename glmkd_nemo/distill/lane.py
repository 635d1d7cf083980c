"""A teacher's way through the pipeline, beside the student's, forward only; and its work there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from glmkd_nemo.distill.links import Receipt
from glmkd_nemo.distill.method import Batch, StepContext
from glmkd_nemo.distill.micro_batch import MicroBatch
from glmkd_nemo.distill.objective import WeightedPart
from glmkd_nemo.distill.pipeline import activation_shape, received_tap, tap_dtype, tap_shape
from glmkd_nemo.distill.routes import Route, Routes
from glmkd_nemo.distill.taps import Edits, TapKey
from glmkd_nemo.distill.teachers import Teacher


class Expected(NamedTuple):
    """What earlier stages send for a micro-batch: their activation, and taps to be used here."""

    activation: Receipt | None
    taps: dict[TapKey, Receipt]

    def here(self) -> bool:
        """Whether all has arrived."""
        activation = [] if self.activation is None else [self.activation]
        return all(receipt.here() for receipt in (*activation, *self.taps.values()))


class TeacherLane:
    """A teacher's way through the pipeline.

    Each stage runs the micro-batches in their order, and so sends and receives in one order.

    Args:
        name: of the teacher.
        teacher: this stage of it.
        routes: who needs what; its links carry the messages.
    """

    def __init__(self, name: str, teacher: Teacher, routes: Routes) -> None:
        self.name, self.teacher, self.routes = name, teacher, routes

    def needs(self, parts: Sequence[WeightedPart]) -> set[Route]:
        """Which of its tensors the parts of a step need, and where."""
        return self.routes.teacher_needs(self.name, self.teacher.config.split, parts)

    def expect(self, batch: Batch, needs: set[Route]) -> Expected:
        """What earlier stages send for a micro-batch; asked for once, in their order."""
        routes, config = self.routes, self.teacher.config
        b, s = batch.input_ids.shape
        activation = None
        if 0 < routes.stage <= _reach(needs):
            shape = activation_shape(config, b, s)
            activation = routes.teacher_links.expect(shape, config.params_dtype, routes.stage - 1)
        taps = {}
        for source, home, key in _travelling(needs):
            if home == routes.stage:
                shape_, dtype = tap_shape(key, config, b, s), tap_dtype(key, config)
                taps[key] = routes.teacher_links.expect(shape_, dtype, source)
        return Expected(activation, taps)

    def run(
        self, batch: Batch, edits: Edits, needs: set[Route], expected: Expected
    ) -> dict[TapKey, Any]:
        """This stage's taps, and those that earlier stages send here.

        A teacher of which nothing is needed in this step does not run, nor does it on the stages
        after the last one that something is needed of.
        """
        routes, reach = self.routes, _reach(needs)
        taps: dict[TapKey, Any] = {}
        received = None if expected.activation is None else expected.activation.get()
        want = {key for source, _, key in needs if source == routes.stage}
        passes_on = routes.stage < reach
        if routes.stage <= reach:
            output, taps = self.teacher.forward(batch, want, received, edits, passes_on)
        if passes_on:
            routes.teacher_links.send(output, routes.stage + 1)
        for source, home, key in _travelling(needs):
            if source == routes.stage:
                routes.teacher_links.send(taps[key].value, home)
        for key, receipt in expected.taps.items():
            taps[key] = received_tap(key, receipt.get())
        return taps


@dataclass
class Job:
    """A micro-batch for all teachers, and what is known of it so far.

    Attributes:
        owner: its step, as the caller announced it.
        context: its step, and its number.
        fields: of the data loader.
        needs: what the step's parts need, by teacher.
        micro: prepared for the models.
        read: what each teacher reads.
        expected: messages of earlier stages, by teacher.
        taps: of the teachers that have run.
        event: with CUDA, after the last of them.
    """

    owner: tuple[StepContext, int | None]
    context: StepContext
    fields: Mapping[str, Any]
    needs: Mapping[str, set[Route]]
    micro: MicroBatch | None = None
    read: dict[str, Batch] = field(default_factory=dict)
    expected: dict[str, Expected] = field(default_factory=dict)
    taps: dict[str, dict[TapKey, Any]] = field(default_factory=dict)
    event: Any = None

    def next_of(self, names: Iterable[str]) -> str | None:
        """The next teacher to run."""
        return next((name for name in names if name not in self.taps), None)

    def edits(self, name: str) -> Edits:
        """Of a teacher's tensors."""
        assert self.micro is not None
        return self.micro.teacher_edits.get(name, {})


def _reach(needs: set[Route]) -> int:
    """The last stage that has anything to run."""
    return max((source for source, _, _ in needs), default=-1)


def _travelling(needs: set[Route]) -> list[Route]:
    return sorted((n for n in needs if n[0] != n[1]), key=str)
