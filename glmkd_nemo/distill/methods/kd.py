"""KD: Distilling the Knowledge in a Neural Network (arXiv 1503.02531, section 2).

The soft term; its companion with the labels is the term ``hard``. With temperature 1 it is PD
(arXiv 1908.08962), and with a teacher that was a student before, TAKD (arXiv 1902.03393).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from glmkd_nemo.distill.class_losses import check_of, task_of
from glmkd_nemo.distill.divergences import SoftLoss
from glmkd_nemo.distill.method import MASKS, Batch, Method, ModelShape, Part, StepContext, Taps
from glmkd_nemo.distill.positions import Positions
from glmkd_nemo.distill.row_loss import LOGITS, TokenLoss

CLASSES = ("classes", None)


@dataclass
class KDConfig(SoftLoss):
    """Options of KD, besides those of ``SoftLoss``: loss, temperature (10 in GLMKD's recipe), ...

    Attributes:
        mask: positions that count: ``target`` (to be predicted), ``pad_labels`` or
            ``pad_positions`` (all but padding, told by labels or by position ids), ``none`` (all).
            A mask multiplies logits and the mean runs over all positions, as in GLMKD.
        mask_map: compare only the tokens that the student's vocabulary map keeps.
        of: ``tokens``, or ``classes`` (a task head's answers, to which no mask of positions
            applies; answers that only pad are left out, where GLMKD lets them in).
    """

    temperature: float = 10.0
    mask: str = "target"
    mask_map: bool = False
    of: str = "tokens"


class KD(Method):
    """Soft labels of the teacher."""

    Config = KDConfig

    def __init__(self, config: KDConfig, student: ModelShape, teacher: ModelShape | None) -> None:
        super().__init__(config, student, teacher)
        config.check("kd")
        if config.mask not in MASKS:
            raise ValueError(f"kd: mask {config.mask!r} is unknown: {', '.join(MASKS)}.")
        check_of("kd", config.of)

    def parts(self, context: StepContext) -> list[Part]:
        """One part, ``soft``."""
        if self.config.of == "classes":
            return [Part("soft", self._classes, (CLASSES,), (CLASSES,), prediction=True)]
        tokens = TokenLoss(self.config, self._where, kept_only=self.config.mask_map)
        return [Part("soft", tokens, (LOGITS,), (LOGITS,), prediction=True)]

    def _where(self, batch: Batch) -> Positions:
        return batch.positions(self.config.mask)

    def _classes(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        return self.config.of_classes(
            student[CLASSES], teacher[CLASSES], task_of(batch).choice_mask
        )


METHOD = KD
