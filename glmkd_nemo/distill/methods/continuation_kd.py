"""Continuation KD: Improved Knowledge Distillation through the Lens of Continuation Optimization
(arXiv 2212.05998, section 3).

From annealed logits to hard labels, whose weight grows linearly and then jumps to 1. As in GLMKD a
sample's error counts in full while it is above the margin: a hinge's gradient, without its offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from glmkd_nemo.distill import annealing
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext, Taps


@dataclass
class ContinuationKDConfig:
    """Options of Continuation-KD.

    Attributes:
        max_t, mask, of: as in ``annealing_kd``.
        margin: of the soft term, times the annealing factor.
        psi_denominator: the hard labels' weight is the fraction of training done over this.
        hard_after: fraction of training after which only hard labels count.
    """

    max_t: float = 10.0
    margin: float = 1.0
    psi_denominator: float = 1.333
    hard_after: float = 0.666
    mask: str = "target"
    of: str = "tokens"


class ContinuationKD(Method):
    """Annealed soft labels that give way to hard ones."""

    Config = ContinuationKDConfig

    def __init__(
        self, config: ContinuationKDConfig, student: ModelShape, teacher: ModelShape | None
    ) -> None:
        super().__init__(config, student, teacher)
        annealing.check_annealing("continuation_kd", config.max_t, config.mask, config.of)
        if not 0 < config.hard_after <= min(config.psi_denominator, 1):
            raise ValueError(
                "continuation_kd: 0 < hard_after <= psi_denominator (and 1) must hold."
            )

    def parts(self, context: StepContext) -> list[Part]:
        """``soft`` and ``hard``; one whose weight is 0 now is left out."""
        return [part for part in self._both(context) if part.weight]

    def possible_parts(self) -> list[Part]:
        """Both."""
        return self._both(StepContext())

    def _both(self, context: StepContext) -> list[Part]:
        c = self.config
        psi = annealing.hard_weight(context, c.psi_denominator, c.hard_after)
        soft = partial(self._soft, annealing.annealing_factor(context.progress, c.max_t))
        hard = annealing.hard_labels(c.of)
        keys = (annealing.CLASSES if c.of == "classes" else annealing.LOGITS,)
        return [
            Part("soft", soft, keys, keys, weight=1 - psi, prediction=True),
            Part("hard", hard, keys, weight=psi, prediction=True),
        ]

    def _soft(self, factor: float, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        c = self.config
        error = annealing.annealed_error(student, teacher, batch, c.of, c.mask, factor)
        return error * (error > c.margin * factor)


METHOD = ContinuationKD
