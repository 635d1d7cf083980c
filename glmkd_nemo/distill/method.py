"""What a distillation method is: a list of loss parts, each on a few named tensors.

A method never sees pipeline stages, shards or process groups. It declares parts; the engine finds
out which tensors to tap, on which stage a part can be computed, and moves the teacher's tensors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from glmkd_nemo.distill.batch import MASKS, Batch, TaskBatch, batch_of
from glmkd_nemo.distill.taps import Edits, TapKey

__all__ = [
    "MASKS",
    "Batch",
    "Loss",
    "Method",
    "ModelShape",
    "Part",
    "StepContext",
    "Taps",
    "TaskBatch",
    "batch_of",
]

Taps = Mapping[TapKey, Any]


class ModelShape(NamedTuple):
    """The sizes of a model that a method may depend on."""

    layers: int
    hidden: int
    heads: int
    vocab: int = 0


@dataclass(frozen=True)
class StepContext:
    """Where training stands, and the random numbers of this step.

    Attributes:
        step: optimizer steps done.
        max_steps: planned ones.
        epoch: epochs done.
        seed: of the run.
        micro_batch: number of the micro-batch inside the step, over all data-parallel ranks; 0
            where a decision is for the whole step.
        forward_pass: number of the pass over the step's micro-batches, see ``Method.passes``.
    """

    step: int = 0
    max_steps: int = 1
    epoch: int = 0
    seed: int = 0
    micro_batch: int = 0
    forward_pass: int = 0

    @property
    def progress(self) -> float:
        """Fraction of training done."""
        return self.step / max(self.max_steps, 1)

    def draws(self, *what: object) -> random.Random:
        """A generator that depends on the seed and ``what`` only: equal on all ranks, and the
        same again after a resume, so that nothing about it needs saving."""
        return random.Random(":".join(map(str, (self.seed, *what))))


Loss = Callable[[Taps, Taps, Batch], Tensor]


@dataclass(frozen=True)
class Part:
    """One named loss.

    Attributes:
        name: how it is logged.
        loss: ``loss(student_taps, teacher_taps, batch) -> [b]``, unweighted.
        student, teacher: the taps that it reads; those of the student may live on several
            pipeline stages: they are carried, with their gradient, to the last of these.
        weight: factor of the part inside its term.
        prediction: whether it compares predictions (aggregators of several teachers weigh these),
            not intermediate layers.
        view: which of the stacked views of the batch it reads, see ``Method.views``.
    """

    name: str
    loss: Loss
    student: tuple[TapKey, ...]
    teacher: tuple[TapKey, ...] = ()
    weight: float = 1.0
    prediction: bool = False
    view: int = 0


class Method(nn.Module):
    """Base of all methods. Trainable parameters (projections) are ordinary submodules.

    Class attributes:
        Config: dataclass of the method's options, with the paper's defaults.
        needs_teacher: whether its term names a teacher.
        views: how many times the sequences of a micro-batch stand one after the other in the batch
            that the models see (``[views * b, s]``), so that one pass gives several forwards.
        shared: names of submodules that the instances of one term for several teachers have in
            common.

    Attributes:
        passes: how many times a step goes over its micro-batches; only the gradients and losses of
            the last pass count.
        maps_teacher_input: whether its teacher reads the tokens that the student's vocabulary map
            leaves, in all its terms.
        place: number of this instance's teacher among those of its term, and their count.
    """

    Config: ClassVar[type]
    needs_teacher: ClassVar[bool] = True
    views: ClassVar[int] = 1
    shared: ClassVar[tuple[str, ...]] = ()
    passes: int = 1
    maps_teacher_input: bool = False
    place: tuple[int, int] = (0, 1)

    def __init__(self, config: Any, student: ModelShape, teacher: ModelShape | None) -> None:
        super().__init__()
        self.config, self.student, self.teacher = config, student, teacher

    def parts(self, context: StepContext) -> list[Part]:
        """The loss parts of this step. Must depend on ``context`` and the configuration only."""
        raise RuntimeError(f"{type(self).__name__} must define parts()")

    def possible_parts(self) -> list[Part]:
        """Parts whose taps cover those of every step, asked once to place layers on stages.

        The parts of step 0 unless overridden; a method that draws layers at random overrides it.
        """
        return self.parts(StepContext())

    def edits(self, context: StepContext, batch: Batch) -> tuple[Edits, Edits]:
        """Changes of tensors inside the forward pass, of the student and of the teacher.

        Each is a function of the whole tensor ``[views * b, s, h]`` (stacked views), under the
        tap's key; what it returns goes on through the model and is what is tapped.
        """
        return {}, {}

    def replacements(self, context: StepContext) -> Mapping[int, range]:
        """Student layers that the teacher's layers stand in for during this step."""
        return {}

    def possible_replacements(self) -> Mapping[int, range]:
        """All that can ever be replaced: those teacher layers are placed beside the student's."""
        return {}

    def observe(self, context: StepContext, values: Mapping[str, float]) -> None:
        """Called on all ranks after a step with the value of each part (by its own name).

        State that it changes belongs in buffers: they are saved, and restored, with the weights.
        """

    def done(self, context: StepContext) -> bool:
        """Whether terms that wait for this one (``after:`` in their configuration) may start."""
        return True
