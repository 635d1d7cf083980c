"""Values and gradients of losses on a few rows of logits, in place.

A gradient by the student's logits is written over these logits but for a factor per row, which
whoever multiplies it with the (far narrower) hidden states takes in there. Vocabulary-parallel:
``V'`` are this rank's columns, values are those of all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from glmkd_nemo.distill.losses import log_partition, row_peak
from glmkd_nemo.distill.parallel import all_max, all_sum

_NO_OVERFLOW = 60.0  # e^60 and 1 / e^60 are far from the ends of fp32


def kl_(s: Tensor, t: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) times T^2, as :func:`~glmkd_nemo.distill.losses.kl`.

    With u the student's lead ``s - t`` less its mean under the teacher's p, and ``D`` the sum of
    ``p (e^u - 1 - u)``, KL is ``log(1 + D)`` and the gradient ``p (e^u - 1 - D) / (1 + D)``:
    neither loses digits where student and teacher are close.

    Args:
        s, t: logits over T, ``[c, V']``; the gradient goes to ``s``, ``t`` is overwritten.
        temperature: T.

    Returns:
        Values ``[c]``, and the factor ``[c, 1]`` on the gradient by the logits (not over T).
    """
    lead = s - t
    far = _leads_far(lead)
    if s.is_cpu:  # a value there waits for nobody
        any_far = bool(far.any())
        return _far_kl_(s, t, temperature) if any_far else _close_kl_(s, t, lead, temperature)
    other = s.clone()
    others = _far_kl_(other, t.clone(), temperature)
    found = _close_kl_(s, t, lead.masked_fill_(far, 0.0), temperature)
    s.copy_(torch.where(far, other, s))
    values, factor = (torch.where(far.view_as(x), y, x) for x, y in zip(found, others, strict=True))
    return values, factor


def _close_kl_(s: Tensor, t: Tensor, lead: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    t.sub_(all_max(row_peak(t))).exp_()  # p but for the row's 1 / z
    torch.mul(lead, t, out=s)
    z, mean = all_sum(torch.stack([t.sum(-1, True), s.sum(-1, True)]))
    u = lead.sub_(mean / z)
    torch.expm1(u, out=s)
    excess = torch.sub(s, u, out=u).mul_(t)
    d = all_sum(excess.sum(-1, True)) / z
    s.sub_(d).mul_(t)
    return d.squeeze(-1).log1p() * temperature**2, temperature / (z * (1 + d))


def cross_entropy_(s: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy with hard labels.

    Args:
        s: logits ``[c, V']``; the gradient goes there.
        labels: ``[c]``, counted from this rank's first column.

    Returns:
        Values ``[c]``, and the factor ``[c, 1]`` on the gradient.
    """
    labels = labels.unsqueeze(-1)
    mine = (labels >= 0) & (labels < s.shape[-1])
    index = labels.clamp(0, max(s.shape[-1] - 1, 0))
    top = all_max(row_peak(s))
    if s.shape[-1]:
        picked = s.gather(-1, index).sub_(top).masked_fill_(~mine, 0.0)
    else:
        picked = torch.zeros_like(top)
    s.sub_(top).exp_()
    z, picked = all_sum(torch.stack([s.sum(-1, True), picked]))
    if s.shape[-1]:
        s.scatter_add_(-1, index, -z * mine)
    return (z.log() - picked).squeeze(-1), 1 / z


def by_autograd_(loss: Callable[[Tensor], Tensor], s: Tensor) -> Tensor:
    """Any loss of rows: its values ``[c]``; the gradient goes to ``s``, the logits ``[c, V']``."""
    with torch.enable_grad():
        x = s.detach().requires_grad_()
        values = loss(x)
        (gradient,) = torch.autograd.grad(values.sum(), x)
    s.copy_(gradient)
    return values.detach()


def _leads_far(lead: Tensor) -> Tensor:
    """``[c, 1]``: whether e^u might overflow in a row, as at very low temperatures."""
    if lead.shape[-1]:
        ends = torch.cat([lead.amax(-1, True), -lead.amin(-1, True)], -1)
    else:
        ends = lead.new_full((len(lead), 2), -math.inf)
    return all_max(ends).sum(-1, True) > _NO_OVERFLOW


def _far_kl_(s: Tensor, t: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_p = t - log_partition(t).unsqueeze(-1)
    log_q = s - log_partition(s).unsqueeze(-1)
    p = log_p.exp()
    values = all_sum((p * (log_p - log_q)).sum(-1))
    torch.sub(log_q.exp(), p, out=s)
    return values * temperature**2, torch.full_like(values, temperature).unsqueeze(-1)
