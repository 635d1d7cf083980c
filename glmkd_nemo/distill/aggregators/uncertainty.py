"""Uncertainty: Unified and Effective Ensemble KD (arXiv 2204.00548, section 3).

The surer the student is of a sample (the lower its entropy), the larger the teacher that it learns
from: ``hard`` gives each sample one teacher by its rank in the batch, the soft form weighs all. As
in GLMKD weights keep their gradient with respect to the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.distill.aggregator import Aggregator, Weights, prediction_key
from glmkd_nemo.distill.method import MASKS, Batch, StepContext, Taps
from glmkd_nemo.distill.signals import normalized_entropy, selection_rates


@dataclass
class UncertaintyConfig:
    """Options of the choice by uncertainty.

    Attributes:
        hard: one teacher per sample, where a batch has at least as many samples as teachers.
        select: whether teachers are weighed at all.
        order: each teacher's place in the order from small to large; ``None``: as configured.
        inter_entropy: intermediate losses are weighed by the entropy, predictions by 1 - entropy.
        of: whose entropy: ``tokens`` or ``classes``.
        mask: positions that count, for tokens.
    """

    hard: bool = True
    select: bool = True
    order: list[int] | None = None
    inter_entropy: bool = False
    of: str = "tokens"
    mask: str = "target"


class Uncertainty(Aggregator):
    """Teachers chosen by the student's entropy."""

    Config = UncertaintyConfig

    def __init__(self, config: UncertaintyConfig, student: Any, teachers: Sequence[Any]) -> None:
        super().__init__(config, student, teachers)
        self.student_keys = (prediction_key(config.of),)
        self.fixed_intermediate = not config.inter_entropy
        self.order = list(range(len(self.teachers))) if config.order is None else config.order
        if sorted(self.order) != list(range(len(self.teachers))):
            raise ValueError(f"uncertainty: order {self.order} must hold each teacher's number.")
        if config.mask not in MASKS:
            raise ValueError(f"uncertainty: mask {config.mask!r} is unknown: {', '.join(MASKS)}.")

    def intermediate(self, context: StepContext) -> list[float]:
        """The mean over teachers."""
        return [1 / len(self.teachers)] * len(self.teachers)

    def weights(
        self, student: Taps, teachers: Sequence[Taps], batch: Batch, context: StepContext
    ) -> Weights:
        """By the student's entropy."""
        c, count = self.config, len(self.teachers)
        entropy = normalized_entropy(student[self.student_keys[0]], batch, c.mask)
        rates = selection_rates(entropy, count if c.select else 1, c.hard).expand(-1, count) / count
        prediction = [rates[:, place] for place in self.order]
        if not c.inter_entropy:
            return Weights(prediction, self.intermediate(context))
        sure = (1 - entropy).abs()
        return Weights([sure * p for p in prediction], [entropy / count] * count)


AGGREGATOR = Uncertainty
