"""Pairs of states to compare, and teacher layers drawn at random: for methods, nothing sharded.

State ``k`` of a model with ``n`` layers is what GLMKD compares as hidden states: the output of
layer ``k``'s input layernorm, state 0 standing for the embedding, and state ``n`` that of the final
layernorm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from glmkd_nemo.distill.layer_map import skip, uniform_segments
from glmkd_nemo.distill.method import Batch, Part, StepContext, Taps
from glmkd_nemo.distill.taps import Tap, TapKey

PairLoss = Callable[[Tap, Tap], Tensor]


def state(k: int, layers: int, suffix: str = "") -> TapKey:
    """The tap of state ``k``; ``suffix`` is ``"_first"`` or ``"_mean"`` for its small vectors."""
    return (f"output{suffix}", None) if k == layers else (f"hidden{suffix}", k)


def skip_states(teacher_layers: int, student_layers: int) -> list[int]:
    """The teacher's states that the student's 0 to ``student_layers`` meet, every ``t // s``-th.

    As in GLMKD the last is the teacher's final one where the steps ``0, k, 2k, ...`` within its
    depth are as many as the student's states (5 -> 2 layers); elsewhere the rest is dropped and the
    student's final state meets an inner one (4 -> 3).

    Raises:
        ValueError: the teacher is shallower than the student.
    """
    ends = skip(teacher_layers, student_layers)
    if teacher_layers // ends[1] == student_layers:
        ends[-1] = teacher_layers
    return ends


def pair_part(name: str, loss: PairLoss, student: TapKey, teacher: TapKey) -> Part:
    """A part that needs one tap of the student, one of the teacher, and nothing of the batch.

    Args:
        loss: of the two taps, ``[b]``.
    """
    return Part(name, partial(_of_pair, loss, student, teacher), (student,), (teacher,))


def pair_parts(name: str, loss: PairLoss, pairs: Iterable[tuple[TapKey, TapKey]]) -> list[Part]:
    """Parts ``name.0``, ``name.1`` ... of pairs of keys (student's, teacher's)."""
    return [pair_part(f"{name}.{i}", loss, s, t) for i, (s, t) in enumerate(pairs)]


def _of_pair(
    loss: PairLoss, s: TapKey, t: TapKey, student: Taps, teacher: Taps, batch: Batch
) -> Tensor:
    return loss(student[s], teacher[t])


@dataclass
class RandomLayers:
    """Options of methods that may draw the teacher's layers anew during training.

    Attributes:
        random_layers: draw them, sorted, instead of following the fixed map.
        random_every_epochs: after so many epochs; 0: ``random_every_steps`` counts.
        random_every_steps: after so many steps.
    """

    random_layers: bool = False
    random_every_epochs: int = 1
    random_every_steps: int = 3000

    def check(self, method: str) -> None:
        """Refuses layers that would never be drawn.

        Raises:
            ValueError: neither interval is above 0.
        """
        if self.random_layers and max(self.random_every_epochs, self.random_every_steps) < 1:
            raise ValueError(
                f"{method}: random_every_epochs or random_every_steps must be above 0."
            )

    def draw(
        self, context: StepContext, method: str, teacher_layers: int, count: int, place: int = 0
    ) -> list[int]:
        """``count`` inner layers of the teacher (from 1 on), sorted.

        Args:
            method, place: make its draws independent of those of others, and of those for other
                teachers.
        """
        every = self.random_every_epochs
        turn = context.epoch // every if every else context.step // self.random_every_steps
        return sorted(context.draws(method, turn, place).sample(range(1, teacher_layers), count))

    def ends(
        self, context: StepContext, method: str, teacher: int, student: int, place: int = 0
    ) -> list[int]:
        """TinyBERT's map ``[0, e_1, ..., teacher]`` of this step, see :func:`uniform_segments`."""
        if not self.random_layers:
            return uniform_segments(teacher, student)
        return [0, *self.draw(context, method, teacher, student - 1, place), teacher]

    def possible_ends(self, teacher: int, student: int) -> list[list[int]]:
        """Maps that together give each student layer every teacher layer that it can ever have.

        Raises:
            ValueError: the teacher is shallower than the student.
        """
        segments = uniform_segments(teacher, student)  # refuses a shallow teacher
        if not self.random_layers or student == 1:
            return [segments]
        shifts = range(1, teacher - student + 2)
        return [[0, *range(shift, shift + student - 1), teacher] for shift in shifts]
