"""Which divergence of two predictions is minimised: KL, and what was proposed in its place.

With ``p`` the teacher's distribution and ``q`` the student's, both at temperature T:

==============  ====================================================  ==========================
``kl``          KL(p || q) T^2                                        arXiv 1503.02531, section 2
``ce``          cross-entropy of q under p, without the factor        as in GLMKD
``mse``         mean squared difference of the logits, without T      as in GLMKD
``reverse_kl``  KL(q || p) T^2                                        MiniLLM, arXiv 2306.08543
``jsd``         (beta KL(p || m) + (1 - beta) KL(q || m)) T^2,        GKD, arXiv 2306.13649
                m = beta p + (1 - beta) q
``skewed_kl``   KL(p || skew p + (1 - skew) q) T^2                    DistiLLM, arXiv 2402.03898
==============  ====================================================  ==========================

The last three are of this project, on the texts at hand (the papers also train on texts that the
student writes). The factor T^2 and the masks are those of ``kl``, see ``losses.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill import fused_rows, fused_triton
from glmkd_nemo.distill.class_losses import real_log_softmax, soft_classes
from glmkd_nemo.distill.losses import (
    KINDS,
    Average,
    at_least_fp32,
    log_partition,
    row_values,
    soft_average,
)
from glmkd_nemo.distill.parallel import all_sum, shared
from glmkd_nemo.distill.positions import Positions, positions
from glmkd_nemo.distill.row_loss import KernelRows, RowLoss
from glmkd_nemo.distill.taps import Tap, as_tap
from glmkd_nemo.models.logits import Logits, comparable

BEYOND_KL = ("reverse_kl", "jsd", "skewed_kl")
_SMALL, _SERIES = 0.5, 16  # up to where e^x - 1 - x is taken from its series, and its length
_LARGE = 30.0  # e^30 is far from the largest fp32 number


@dataclass
class SoftLoss(RowLoss):
    """Options of a soft-label loss, and the loss itself.

    Attributes:
        loss: see the table above.
        temperature: T.
        beta: of ``jsd``, between 0 (towards KL) and 1 (towards reverse KL).
        skew: of ``skewed_kl``, between 0 (towards KL) and 1; DistiLLM has 0.1.
    """

    loss: str = "kl"
    temperature: float = 1.0
    beta: float = 0.5
    skew: float = 0.1

    def check(self, method: str) -> None:
        """Refuses options that cannot be followed.

        Raises:
            ValueError: with the method's name, the key and what it may be.
        """
        if self.loss not in KINDS + BEYOND_KL:
            known = ", ".join(KINDS + BEYOND_KL)
            raise ValueError(f"{method}: loss {self.loss!r} is unknown: {known}.")
        if self.temperature <= 0:
            raise ValueError(f"{method}: temperature {self.temperature} must be above 0.")
        if not 0 < self.beta < 1:
            raise ValueError(f"{method}: beta {self.beta} must be between 0 and 1.")
        if not 0 < self.skew < 1:
            raise ValueError(f"{method}: skew {self.skew} must be between 0 and 1.")

    def of_logits(
        self,
        student: Logits,
        teacher: Logits,
        mask: Tensor | Positions,
        kept_only: bool = False,
    ) -> Tensor:
        """Of token logits, averaged over all positions of a sample: ``[b]``.

        Args:
            mask: ``[b, s]``, positions that count.
            kept_only: compare the tokens that the student's vocabulary map keeps only.
        """
        student, teacher = comparable(student, teacher, kept_only)
        return self.of_rows(student.rows(mask), teacher.rows(mask), mask, student.vocab_size)

    def of_rows(self, s: Tensor, t: Tensor, mask: Tensor | Positions, vocab_size: int) -> Tensor:
        """:meth:`of_logits` on logits ``[rows, V']`` taken (and changed) already: ``[b]``."""
        where, rows = positions(mask), self.rows(s, t)
        return self.average(where, vocab_size, rows.dtype).of(where.sum(rows))

    @property
    def scale(self) -> float:
        """``1 / T`` where the gradient is written down."""
        return 1 / self.temperature if self.loss == "kl" else 1.0

    def rows(self, s: Tensor, t: Tensor | None, labels: Tensor | None = None) -> Tensor:
        """Values of rows, see :class:`RowLoss`."""
        assert t is not None
        if self.loss in KINDS:
            return row_values(self.loss, s, t, self.temperature)
        s, t = at_least_fp32(s), at_least_fp32(t)
        z_s, z_t = (shared(log_partition(x / self.temperature)).unsqueeze(-1) for x in (s, t))
        log_q, log_p = s / self.temperature - z_s, t / self.temperature - z_t
        lead = (s - t) / self.temperature - (z_s - z_t)  # log_q - log_p, but exact where both agree
        return all_sum(self.terms(log_q, log_p, lead).sum(-1)) * self.temperature**2

    def average(self, where: Positions, vocab_size: int, dtype: torch.dtype) -> Average:
        """See :func:`~glmkd_nemo.distill.losses.soft_average`."""
        return soft_average(self.loss, where, vocab_size, dtype)

    def gradient_(
        self, s: Tensor, t: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Written down for ``kl``."""
        assert t is not None
        if self.loss == "kl":
            return fused_rows.kl_(s, t, self.temperature)
        return super().gradient_(s, t, labels)

    @property
    def has_kernel(self) -> bool:
        """For ``kl`` and ``reverse_kl``."""
        return self.loss in ("kl", "reverse_kl")

    def kernel(self, on: KernelRows) -> Tensor:
        """See :func:`~glmkd_nemo.distill.fused_triton.kl_`."""
        assert on.t is not None
        squared, reverse = self.temperature**2, self.loss == "reverse_kl"
        weight, scale = on.weight * squared, 1 / self.temperature
        rows = fused_triton.kl_(on.s, on.t, weight, on.out, scale, add=on.add, reverse=reverse)
        return rows.values * squared

    def of_whole(self, s: Tensor, t: Tensor) -> Tensor:
        """Of logits that every tensor-parallel rank has whole: ``[..., n] -> [...]``."""
        s, t = at_least_fp32(s), at_least_fp32(t)
        if self.loss == "mse":
            return (s - t).square().mean(-1)
        log_q, log_p = ((x / self.temperature).log_softmax(-1) for x in (s, t))
        if self.loss == "ce":
            return -(log_p.exp() * log_q).sum(-1)
        kl, lead = self.loss == "kl", log_q - log_p
        terms = log_p.exp() * -lead if kl else self.terms(log_q, log_p, lead)
        return terms.sum(-1) * self.temperature**2

    def of_classes(
        self, student: Tap | Tensor, teacher: Tap | Tensor, choice_mask: Tensor | None = None
    ) -> Tensor:
        """Of a task head's logits ``[b, c]``, as :func:`soft_classes`: ``[b]``."""
        if self.loss in KINDS:
            return soft_classes(self.loss, student, teacher, choice_mask, self.temperature)
        s, t = as_tap(student).value, as_tap(teacher).value
        real = torch.ones_like(s) if choice_mask is None else choice_mask
        log_q, log_p = (
            real_log_softmax(x.double() / self.temperature, real.bool()) for x in (s, t)
        )
        rows = self.terms(log_q, log_p, log_q - log_p).sum(-1) * self.temperature**2
        return rows.to(at_least_fp32(s).dtype)

    def terms(self, log_q: Tensor, log_p: Tensor, lead: Tensor) -> Tensor:
        """What each token adds to a divergence beyond KL, never below 0; ``lead`` is ``log_q``
        minus ``log_p``: any shape in and out."""
        if self.loss == "reverse_kl":
            return _kl_terms(log_q, -lead)
        if self.loss == "skewed_kl":
            return _kl_terms(log_p, _log_mixture(lead, self.skew))
        mixed = _log_mixture(lead, self.beta)
        of_teacher, of_student = _kl_terms(log_p, mixed), _kl_terms(log_q, mixed - lead)
        return self.beta * of_teacher + (1 - self.beta) * of_student


def _kl_terms(log_a: Tensor, gain: Tensor) -> Tensor:
    """Terms of KL(a || b), where ``gain = log b - log a``.

    As both sum to 1, ``sum a (-gain)`` is ``sum a (e^gain - 1 - gain)``, whose terms have one sign:
    nothing is lost in fp32 where the distributions are close, as at high temperatures.
    """
    a = log_a.exp()
    far = (log_a + gain).exp() - a * (1 + gain)  # b itself, where e^gain would be too large
    return torch.where(gain < _LARGE, a * _Excess.apply(gain.clamp(max=_LARGE)), far)


def _log_mixture(lead: Tensor, weight: float) -> Tensor:
    """``log(weight + (1 - weight) e^lead)``, without overflow and exact near 0."""
    below = torch.log1p((1 - weight) * lead.clamp(max=0).expm1())
    above = lead + torch.log1p(weight * (-lead.clamp(min=0)).expm1())
    return torch.where(lead < 0, below, above)


class _Excess(torch.autograd.Function):
    """``e^x - 1 - x``, from its series near 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        series = torch.ones_like(x)
        for n in range(_SERIES, 2, -1):
            series = 1 + series * x / n
        return torch.where(x.abs() < _SMALL, series * x * x / 2, x.expm1() - x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * x.expm1()
