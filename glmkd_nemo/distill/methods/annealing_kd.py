"""Annealing Knowledge Distillation (arXiv 2104.07163, section 3), its first stage.

The student regresses the teacher's logits, scaled by a factor that grows step by step to 1; the
paper's second stage, hard labels alone, is a run with the term ``hard`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from glmkd_nemo.distill.annealing import (
    CLASSES,
    LOGITS,
    annealed_error,
    annealed_tokens,
    annealing_factor,
    check_annealing,
)
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext, Taps


@dataclass
class AnnealingKDConfig:
    """Options of Annealing-KD.

    Attributes:
        max_t: temperature at the start, the number of steps of the annealing.
        mask: positions that count, as in ``kd``; without effect on classes.
        of: ``tokens`` or ``classes`` (a task head's answers).
    """

    max_t: float = 7.0
    mask: str = "target"
    of: str = "tokens"


class AnnealingKD(Method):
    """Squared error with annealed logits."""

    Config = AnnealingKDConfig

    def __init__(
        self, config: AnnealingKDConfig, student: ModelShape, teacher: ModelShape | None
    ) -> None:
        super().__init__(config, student, teacher)
        check_annealing("annealing_kd", config.max_t, config.mask, config.of)

    def parts(self, context: StepContext) -> list[Part]:
        """One part, ``soft``."""
        factor = annealing_factor(context.progress, self.config.max_t)
        if self.config.of == "classes":
            classes = partial(self._classes, factor)
            return [Part("soft", classes, (CLASSES,), (CLASSES,), prediction=True)]
        tokens = annealed_tokens(self.config.mask, factor)
        return [Part("soft", tokens, (LOGITS,), (LOGITS,), prediction=True)]

    def _classes(self, factor: float, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        return annealed_error(student, teacher, batch, "classes", "none", factor)


METHOD = AnnealingKD
