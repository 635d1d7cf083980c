"""Hard labels: GLM's own training loss as a term (arXiv 2103.10360, sections 2.1 and 2.3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from glmkd_nemo.distill.class_losses import CHOICE_LOSSES, check_of, choice_loss, task_of
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext, Taps
from glmkd_nemo.distill.row_loss import LOGITS, hard_tokens

CLASSES = ("classes", None)


@dataclass
class HardConfig:
    """Options of the hard labels.

    Attributes:
        of: ``tokens`` (the mean over the tokens to be predicted) or ``classes`` (the answers of a
            task head, the mean over the examples; those that only pad have the logit -10000).
        loss: of ``classes``: ``cross_entropy``, ``hinge``, ``generative``, ``mix``, ``adapet`` or
            ``decoupled``, see :mod:`glmkd_nemo.distill.class_losses`.
        generative_weight: of ``loss=mix``: what ``generative`` counts beside ``cross_entropy``.
    """

    of: str = "tokens"
    loss: str = "cross_entropy"
    generative_weight: float = 1.0


class Hard(Method):
    """Cross-entropy with the labels, or another loss of the right answer."""

    Config = HardConfig
    needs_teacher = False

    def __init__(self, config: HardConfig, student: ModelShape, teacher: ModelShape | None) -> None:
        super().__init__(config, student, teacher)
        check_of("hard", config.of)
        if config.loss not in CHOICE_LOSSES:
            known = ", ".join(CHOICE_LOSSES)
            raise ValueError(f"hard: loss {config.loss!r} is unknown: {known}.")
        if config.of == "tokens" and config.loss != "cross_entropy":
            raise ValueError(f"hard: loss={config.loss} is of answers: set of=classes.")
        if config.generative_weight < 0:
            raise ValueError(
                f"hard: generative_weight {config.generative_weight} must not be below 0."
            )

    def parts(self, context: StepContext) -> list[Part]:
        """One part, ``hard``."""
        if self.config.of == "classes":
            return [Part("hard", self._classes, student=(CLASSES,), prediction=True)]
        return [Part("hard", hard_tokens(), student=(LOGITS,), prediction=True)]

    def _classes(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        c, task = self.config, task_of(batch)
        return choice_loss(
            c.loss, student[CLASSES], task.label, task.choice_mask, c.generative_weight
        )


METHOD = Hard
