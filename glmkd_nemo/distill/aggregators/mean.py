"""Mean over teachers: TMKD (arXiv 1910.08381) and DGKD (arXiv 2009.08825, section 3.2).

TMKD averages all teachers. DGKD ("densely guided") lets each teacher take part in a step with a
survival probability. As in GLMKD the mean then runs over the survivors and the hard label, so that
the hard label is divided too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.distill.aggregator import Aggregator, Weights
from glmkd_nemo.distill.method import Batch, StepContext, Taps


@dataclass
class MeanConfig:
    """Options of the mean.

    Attributes:
        survival: probability that a teacher takes part in a step (DGKD; 1: always).
        sum: sum instead of mean.
        hard: whether the hard label counts here (not, if another member of a mixture has it).
    """

    survival: float = 1.0
    sum: bool = False
    hard: bool = True


class Mean(Aggregator):
    """Equal weights for the teachers that take part."""

    Config = MeanConfig

    def __init__(self, config: MeanConfig, student: Any, teachers: Sequence[Any]) -> None:
        super().__init__(config, student, teachers)
        if not 0.0 < config.survival <= 1.0:
            raise ValueError(f"mean: survival {config.survival} must be above 0 and at most 1.")

    def intermediate(self, context: StepContext) -> list[float]:
        """The survivors' weight, 0 for the others."""
        alive = self._alive(context)
        return [factor * self._share(alive) for factor in alive]

    def weights(
        self, student: Taps, teachers: Sequence[Taps], batch: Batch, context: StepContext
    ) -> Weights:
        """The same for predictions; with ``survival`` below 1 the hard label counts as one more."""
        factors = self.intermediate(context)
        hard = self._share(self._alive(context)) if self.config.survival < 1 else 1.0
        return Weights(factors, factors, hard * self.config.hard)

    def _alive(self, context: StepContext) -> list[float]:
        draws = context.draws("survival", context.step, context.micro_batch)
        return [float(draws.random() <= self.config.survival) for _ in self.teachers]

    def _share(self, alive: list[float]) -> float:
        count = sum(alive) + (self.config.survival < 1)
        return 1.0 if self.config.sum else 1.0 / max(count, 1.0)


AGGREGATOR = Mean
