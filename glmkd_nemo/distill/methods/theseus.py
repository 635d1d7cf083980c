"""BERT-of-Theseus: compressing by progressive module replacing (arXiv 2002.02925, section 3).

With a probability that rises linearly to 1 a student layer takes part in a step; else its segment
of the teacher's layers, which stay frozen, runs in its place. There is no loss of its own: that of
the term ``hard`` trains the student's layers that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glmkd_nemo.distill.layer_map import uniform_segments
from glmkd_nemo.distill.method import Method, ModelShape, Part, StepContext


@dataclass
class TheseusConfig:
    """Options of BERT-of-Theseus.

    Attributes:
        replacing_rate: probability at the start that a student layer is there.
        until: share of training after which all student layers always are.
    """

    replacing_rate: float = 0.3
    until: float = 0.66


class Theseus(Method):
    """Teacher layers in place of student layers."""

    Config = TheseusConfig
    teacher: ModelShape

    def __init__(self, config: TheseusConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        if student.hidden != teacher.hidden:
            raise ValueError(
                f"theseus runs teacher layers inside the student, but hidden sizes differ: "
                f"{student.hidden} and {teacher.hidden}. Choose equal ones."
            )
        if not (0.0 < config.replacing_rate <= 1.0 and 0.0 < config.until <= 1.0):
            raise ValueError("theseus: replacing_rate and until must be above 0 and at most 1.")

    def parts(self, context: StepContext) -> list[Part]:
        """None."""
        return []

    def replacements(self, context: StepContext) -> Mapping[int, range]:
        """Drawn anew in each step; of several teachers one is drawn for each layer that is not."""
        mine, drawn = self.place[0], self._draw(context)
        return {i: r for i, r in self.possible_replacements().items() if drawn[i] == mine}

    def possible_replacements(self) -> Mapping[int, range]:
        """Each student layer by its segment of the teacher."""
        ends = uniform_segments(self.teacher.layers, self.student.layers)
        return {i: range(ends[i], ends[i + 1]) for i in range(self.student.layers)}

    def _draw(self, context: StepContext) -> list[int | None]:
        """The number of the teacher by student layer, until at least one is there (``None``).

        The same for all teachers' instances of a term.
        """
        c, rng, teachers = self.config, context.draws("theseus", context.step), range(self.place[1])
        rate = c.replacing_rate + (1 - c.replacing_rate) * context.progress / c.until
        drawn: list[int | None] = []
        while None not in drawn:
            drawn = [
                None if rng.random() < rate else rng.choice(teachers)
                for _ in range(self.student.layers)
            ]
        return drawn


METHOD = Theseus
