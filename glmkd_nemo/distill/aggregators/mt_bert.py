"""MT-BERT: One Teacher is Enough? (arXiv 2106.01023, section 3.3).

A teacher's soft labels count the less, the worse it predicts the sample: 1 / (1 + its own
cross-entropy). As in GLMKD only prediction losses are weighted, losses are summed over teachers,
and the hard label has weight 1. The paper's alignment of hidden states is the option ``project``
of the intermediate term (``pkd``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.distill.aggregator import Aggregator, Weights, prediction_key
from glmkd_nemo.distill.method import Batch, StepContext, Taps
from glmkd_nemo.distill.signals import hard_loss


@dataclass
class MTBERTConfig:
    """Options of MT-BERT.

    Attributes:
        of: whose cross-entropy decides: ``tokens`` or ``classes``.
    """

    of: str = "tokens"


class MTBERT(Aggregator):
    """Teachers weighted by how well they predict."""

    Config = MTBERTConfig

    def __init__(self, config: MTBERTConfig, student: Any, teachers: Sequence[Any]) -> None:
        super().__init__(config, student, teachers)
        self.key = prediction_key(config.of)
        self.teacher_keys = (self.key,)

    def intermediate(self, context: StepContext) -> list[float]:
        """1 for each."""
        return [1.0] * len(self.teachers)

    def weights(
        self, student: Taps, teachers: Sequence[Taps], batch: Batch, context: StepContext
    ) -> Weights:
        """``1 / (1 + cross-entropy)`` of each teacher on each sample."""
        prediction = [1 / (1 + hard_loss(taps[self.key], batch)) for taps in teachers]
        return Weights(prediction, self.intermediate(context))


AGGREGATOR = MTBERT
