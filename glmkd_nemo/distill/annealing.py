"""Teacher's logits that grow during training: Annealing-KD (arXiv 2104.07163, section 3)."""

from __future__ import annotations

import math

from torch import Tensor

from glmkd_nemo.distill.class_losses import check_of, hard_classes, soft_classes, task_of
from glmkd_nemo.distill.divergences import SoftLoss
from glmkd_nemo.distill.method import MASKS, Batch, Loss, StepContext, Taps
from glmkd_nemo.distill.positions import Positions
from glmkd_nemo.distill.row_loss import TokenLoss, hard_tokens
from glmkd_nemo.distill.taps import as_tap

LOGITS, CLASSES = ("logits", None), ("classes", None)


def annealing_factor(progress: float, max_t: float) -> float:
    """The paper's phi: a staircase from ``1 / max_t`` (for whole ``max_t``) up to 1.

    Args:
        progress: fraction of training done; the temperature falls from ``max_t`` to 1 with it.
        max_t: number of steps of the staircase.
    """
    t = max(1, math.ceil((1 - progress) * max_t))
    return 1 - (t - 1) / max_t


def annealed_error(
    student: Taps, teacher: Taps, batch: Batch, of: str, mask: str, factor: float
) -> Tensor:
    """Mean squared error with the teacher's logits times a factor.

    Args:
        student, teacher: with the tap ``logits``, or ``classes``.
        of: ``tokens`` (the mean over all positions and the vocabulary, with logits 0 at masked
            positions) or ``classes`` (the mean over a task's answers).
        mask: of tokens, see :data:`~glmkd_nemo.distill.method.MASKS`.
        factor: phi.

    Returns:
        ``[b]``.
    """
    if of == "classes":
        choices = task_of(batch).choice_mask
        return soft_classes(
            "mse", student[CLASSES], as_tap(teacher[CLASSES]).value * factor, choices
        )
    return annealed_tokens(mask, factor)(student, teacher, batch)


def annealed_tokens(mask: str, factor: float) -> TokenLoss:
    """:func:`annealed_error` of tokens, as a loss of rows."""

    def where(batch: Batch) -> Positions:
        return batch.positions(mask)

    return TokenLoss(SoftLoss("mse"), where, change=lambda student, rows: rows * factor)


def hard_labels(of: str) -> Loss:
    """Cross-entropy with the labels of ``tokens`` or ``classes``, as in ``hard``."""

    def classes(student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        task = task_of(batch)
        return hard_classes(student[CLASSES], task.label, task.choice_mask)

    return classes if of == "classes" else hard_tokens()


def hard_weight(context: StepContext, denominator: float, hard_after: float) -> float:
    """Continuation-KD's psi (arXiv 2212.05998): the weight of hard labels.

    Args:
        denominator: psi is the fraction of training done over this, and ...
        hard_after: ... 1 after this fraction.
    """
    over = context.step > hard_after * context.max_steps
    return 1.0 if over else context.progress / denominator


def check_annealing(method: str, max_t: float, mask: str, of: str) -> None:
    """Refuses what cannot be annealed.

    Raises:
        ValueError: ``max_t`` below 1, or an unknown ``mask`` or ``of``.
    """
    check_of(method, of)
    if max_t < 1:
        raise ValueError(f"{method}: max_t {max_t} must be at least 1.")
    if mask not in MASKS:
        raise ValueError(f"{method}: mask {mask!r} is unknown: {', '.join(MASKS)}.")
