"""What combines several teachers: weights over teachers, for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from glmkd_nemo.distill.method import Batch, StepContext, Taps
from glmkd_nemo.distill.taps import TapKey

Factor = Tensor | float


@dataclass(frozen=True)
class Weights:
    """How losses of several teachers add up.

    Attributes:
        prediction: one factor per teacher, ``[b]`` or a number, on its prediction parts.
        intermediate: the same on its parts on intermediate layers.
        hard: factor on parts without a teacher (hard labels).
        extra: losses ``[b]`` of the aggregator's own, by name.
        extra_weight: their factor.
    """

    prediction: Sequence[Factor]
    intermediate: Sequence[Factor]
    hard: Factor = 1.0
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    extra_weight: float = 1.0


PREDICTIONS = ("tokens", "classes")


def prediction_key(of: str) -> TapKey:
    """The tap of the predictions that an option ``of`` names.

    Raises:
        ValueError: neither ``tokens`` nor ``classes``.
    """
    if of not in PREDICTIONS:
        raise ValueError(f"distill.aggregator: of {of!r} is unknown: {', '.join(PREDICTIONS)}.")
    return ("logits" if of == "tokens" else "classes", None)


class Aggregator(nn.Module):
    """Base of all aggregators. Trainable parameters are ordinary submodules.

    Class attributes:
        Config: dataclass of the options, with the paper's defaults.
        student_keys, teacher_keys: taps of the last stage that :meth:`weights` reads.
        extras: names of the losses that ``Weights.extra`` may hold.
        fixed_intermediate: whether :meth:`intermediate` gives the factors of intermediate parts;
            if tensors decide them, these parts' values travel to the last pipeline stage.

    Args:
        config: options.
        student: sizes of the student.
        teachers: sizes of the teachers, in order.

    Attributes:
        taught_by: numbers of the teachers whose losses are combined; a term that names no teacher
            is one for each of these.
    """

    Config: ClassVar[type]
    student_keys: tuple[TapKey, ...] = ()
    teacher_keys: tuple[TapKey, ...] = ()
    extras: tuple[str, ...] = ()
    fixed_intermediate: bool = True

    def __init__(self, config: Any, student: Any, teachers: Sequence[Any]) -> None:
        super().__init__()
        self.config, self.student, self.teachers = config, student, list(teachers)
        self.taught_by = list(range(len(self.teachers)))

    def intermediate(self, context: StepContext) -> Sequence[float]:
        """Factors of intermediate parts, one per teacher, where no tensor decides them."""
        raise RuntimeError(f"{type(self).__name__} must define intermediate()")

    def weights(
        self, student: Taps, teachers: Sequence[Taps], batch: Batch, context: StepContext
    ) -> Weights:
        """The weights of a micro-batch.

        Args:
            student: taps ``student_keys``.
            teachers: taps ``teacher_keys`` of each teacher, of those too that do not teach.
            batch: the micro-batch.
            context: its step, and its number.
        """
        raise RuntimeError(f"{type(self).__name__} must define weights()")

    def memory(self) -> Any:
        """What this rank keeps for its next forward beside parameters and buffers: plain containers
        and tensors, which checkpoints save; ``None`` for nothing."""
        return None

    def recall(self, memory: Any) -> None:
        """Takes back what :meth:`memory` gave."""
