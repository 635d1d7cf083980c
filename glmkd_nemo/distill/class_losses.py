"""Losses on a task head's logits ``[b, c]``, which every tensor-parallel rank has whole.

Soft losses are computed in float64: it costs nothing at this size, and at high temperatures the
divergence of two answers is thousands of times smaller than either one's entropy.

Where examples have fewer answers than the batch has columns, the others only pad: they are left out
of the soft losses altogether (GLMKD lets them in), and cannot win in the hard ones.

Hard losses, with ``x`` the logits, ``y`` the right answer and ``k`` the other ones that do not pad:

=================  ===============================================================================
``cross_entropy``  ``-x[y] + log sum exp x``, over ``y`` and ``k``
``hinge``          sum over ``k`` of ``max(0, 1 + x[k] - x[y])``, as in GLMKD
``generative``     ``-x[y]``: the text of the right answer, not that it is the best one
``mix``            ``cross_entropy + generative_weight * generative``; the weight is 1 in GLMKD
``adapet``         ``-x[y] + sum over k of x[k]``: GLMKD's form of ADAPET's label loss. It has no
                   lower bound: it falls for ever as wrong answers lose probability
``decoupled``      ``-x[y] - sum over k of log(1 - exp x[k])``: that loss as published (ADAPET,
                   arXiv 2103.11955, section 3.1), a binary cross-entropy per answer
=================  ===============================================================================

The last four speak of probabilities in the whole vocabulary: their ``x`` should be
log-probabilities, as ``multi_token`` heads give them, and ``single_token`` heads with
``log_softmax=true``. A head's length penalty is in ``x`` already. ADAPET's second
loss (of the text, given the label) is not here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.losses import KINDS, at_least_fp32
from glmkd_nemo.distill.method import Batch, TaskBatch
from glmkd_nemo.distill.taps import Tap, as_tap

OF = ("tokens", "classes")
PADDED_CHOICE = -10000.0  # GLM's constant for the logits of answers that only pad
CHOICE_LOSSES = ("cross_entropy", "hinge", "generative", "mix", "adapet", "decoupled")


def check_of(method: str, of: str) -> None:
    """Checks the option ``of``: which predictions a term compares.

    Raises:
        ValueError: neither ``tokens`` nor ``classes``.
    """
    if of not in OF:
        raise ValueError(
            f"{method}: of {of!r} is unknown: {', '.join(OF)} (on a task also answers: which of "
            "the two it asks for)."
        )


def task_of(batch: Batch) -> TaskBatch:
    """The task's part of a batch.

    Raises:
        ValueError: there is none.
    """
    if batch.task is None:
        raise ValueError("a term with of=classes needs the batches of a task: set of=tokens.")
    return batch.task


def soft_classes(
    kind: str,
    student: Tap | Tensor,
    teacher: Tap | Tensor,
    choice_mask: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """A soft-label loss over the answers of each example.

    Args:
        kind: ``"kl"`` (times T^2, arXiv 1503.02531), ``"ce"`` (without that factor, as in GLMKD)
            or ``"mse"`` (of the logits, without temperature, the mean over the answers).
        student, teacher: logits ``[b, c]``.
        choice_mask: ``[b, c]``, 0 for answers that only pad.
        temperature: T.

    Returns:
        ``[b]``; 0 for an example without any answer.

    Raises:
        ValueError: another kind.
    """
    dtype = at_least_fp32(as_tap(student).value).dtype
    s, t = (as_tap(x).value.double() for x in (student, teacher))
    real = torch.ones_like(s, dtype=torch.bool) if choice_mask is None else choice_mask.bool()
    if kind == "mse":
        error = (s - t).square().masked_fill(~real, 0.0)
        return (error.sum(-1) / real.sum(-1).clamp(min=1)).to(dtype)
    if kind not in KINDS:
        raise ValueError(f"soft loss {kind!r} is unknown: {', '.join(KINDS)}.")
    log_p, log_q = (real_log_softmax(x / temperature, real) for x in (t, s))
    p = log_p.exp() * real
    if kind == "ce":
        return -(p * log_q).sum(-1).to(dtype)
    return ((p * (log_p - log_q)).sum(-1) * temperature**2).to(dtype)


def hard_classes(student: Tap | Tensor, label: Tensor, choice_mask: Tensor | None = None) -> Tensor:
    """Cross-entropy with the right answers; logits of answers that only pad are -10000.

    Args:
        student: logits ``[b, c]``.
        label: ``[b]``, index of the right answer.
        choice_mask: ``[b, c]``, 0 for answers that only pad.

    Returns:
        ``[b]``.
    """
    return F.cross_entropy(_padded(student, choice_mask), label, reduction="none")


def choice_loss(
    kind: str,
    student: Tap | Tensor,
    label: Tensor,
    choice_mask: Tensor | None = None,
    generative_weight: float = 1.0,
) -> Tensor:
    """A hard loss over the answers of each example, see the table above.

    Args:
        kind: one of ``CHOICE_LOSSES``.
        student: logits ``[b, c]``.
        label: ``[b]``, index of the right answer.
        choice_mask: ``[b, c]``, 0 for answers that only pad.
        generative_weight: of ``mix``.

    Returns:
        ``[b]``.

    Raises:
        ValueError: another kind.
    """
    if kind not in CHOICE_LOSSES:
        raise ValueError(f"hard loss {kind!r} is unknown: {', '.join(CHOICE_LOSSES)}.")
    if kind == "cross_entropy":
        return hard_classes(student, label, choice_mask)
    x = _padded(student, choice_mask)
    right = x.gather(1, label.unsqueeze(1)).squeeze(1)
    if kind == "generative":
        return -right
    if kind == "mix":
        return F.cross_entropy(x, label, reduction="none") - generative_weight * right
    wrong = torch.ones_like(x) if choice_mask is None else choice_mask.to(x.dtype)
    wrong = wrong.scatter(1, label.unsqueeze(1), 0.0)
    if kind == "hinge":
        return (F.relu(1.0 + x - right.unsqueeze(1)) * wrong).sum(-1)
    if kind == "adapet":
        return (x * wrong).sum(-1) - right
    return -right - (_log_one_minus_exp(x) * wrong).sum(-1)


def _padded(student: Tap | Tensor, choice_mask: Tensor | None) -> Tensor:
    """Logits ``[b, c]`` in fp32 or more, -10000 for answers that only pad."""
    x = at_least_fp32(as_tap(student).value)
    return x if choice_mask is None else x.masked_fill(~choice_mask.bool(), PADDED_CHOICE)


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """``log(1 - e^x)``, finite also where ``x`` was rounded to 0 (an answer that is certain)."""
    return torch.log(-torch.expm1(x.clamp(max=-torch.finfo(x.dtype).eps)))


def real_log_softmax(x: Tensor, real: Tensor) -> Tensor:
    """Over real entries of ``[b, c]``; 0 at others, so that no infinity meets a gradient."""
    x = x.masked_fill(~real, -math.inf).masked_fill(~real.any(-1, keepdim=True), 0.0)
    return x.log_softmax(-1).masked_fill(~real, 0.0)
