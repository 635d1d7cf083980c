"""KD: Distilling the Knowledge in a Neural Network (arXiv 1503.02531, section 2).

The soft term; its companion with the labels is the term ``hard``. With temperature 1 it is PD
(arXiv 1908.08962), and with a teacher that was a student before, TAKD (arXiv 1902.03393).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from glmkd_nemo.distill import losses
from glmkd_nemo.distill.class_losses import check_of, soft_classes, task_of
from glmkd_nemo.distill.method import MASKS, Batch, Method, ModelShape, Part, StepContext, Taps

LOGITS, CLASSES = ("logits", None), ("classes", None)


@dataclass
class KDConfig:
    """Options of KD.

    Attributes:
        loss: ``kl`` (times T^2), ``ce`` (without that factor, as in GLMKD) or ``mse`` (of the
            logits, without temperature).
        temperature: T; GLMKD's recipe for GLM has 10.
        mask: positions that count: ``target`` (to be predicted), ``pad_labels`` or
            ``pad_positions`` (all but padding, told by labels or by position ids), ``none`` (all).
            A mask multiplies logits and the mean runs over all positions, as in GLMKD.
        of: ``tokens``, or ``classes`` (a task head's answers, to which no mask of positions
            applies; answers that only pad are left out, where GLMKD lets them in).
    """

    loss: str = "kl"
    temperature: float = 10.0
    mask: str = "target"
    of: str = "tokens"


class KD(Method):
    """Soft labels of the teacher."""

    Config = KDConfig

    def __init__(self, config: KDConfig, student: ModelShape, teacher: ModelShape | None) -> None:
        super().__init__(config, student, teacher)
        if config.loss not in losses.KINDS:
            raise ValueError(f"kd: loss {config.loss!r} is unknown: {', '.join(losses.KINDS)}.")
        if config.temperature <= 0:
            raise ValueError(f"kd: temperature {config.temperature} must be above 0.")
        if config.mask not in MASKS:
            raise ValueError(f"kd: mask {config.mask!r} is unknown: {', '.join(MASKS)}.")
        check_of("kd", config.of)

    def parts(self, context: StepContext) -> list[Part]:
        """One part, ``soft``."""
        if self.config.of == "classes":
            return [Part("soft", self._classes, (CLASSES,), (CLASSES,), prediction=True)]
        return [Part("soft", self._tokens, (LOGITS,), (LOGITS,), prediction=True)]

    def _tokens(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        mask = batch.mask(self.config.mask)
        return losses.prediction(
            self.config.loss, student[LOGITS], teacher[LOGITS], mask, self.config.temperature
        )

    def _classes(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        c, mask = self.config, task_of(batch).choice_mask
        return soft_classes(c.loss, student[CLASSES], teacher[CLASSES], mask, c.temperature)


METHOD = KD
