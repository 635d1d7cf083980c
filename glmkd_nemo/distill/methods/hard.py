"""Hard labels: GLM's own training loss as a term (arXiv 2103.10360, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from glmkd_nemo.distill.losses import hard_label
from glmkd_nemo.distill.method import Batch, Method, Part, StepContext, Taps

LOGITS = ("logits", None)


@dataclass
class HardConfig:
    """No options."""


class Hard(Method):
    """Cross-entropy with the labels, the mean over the tokens to be predicted."""

    Config = HardConfig
    needs_teacher = False

    def parts(self, context: StepContext) -> list[Part]:
        """One part, ``hard``."""
        return [Part("hard", self._loss, student=(LOGITS,), prediction=True)]

    def _loss(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        return hard_label(student[LOGITS], batch.labels, batch.target)


METHOD = Hard
