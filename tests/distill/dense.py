"""The losses written plainly on whole logits: what `glmkd_nemo.distill.losses` has to equal.

A mask multiplies logits before the softmax, and means run over all positions, as in GLMKD.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl(s: Tensor, t: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """``[b]`` of logits ``[b, s, V]``."""
    s, t = _masked(s, mask) / temperature, _masked(t, mask) / temperature
    rows = F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1)
    return rows.mean(1) * temperature**2


def ce(s: Tensor, t: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """``[b]``; a masked position gives log V."""
    s, t = _masked(s, mask) / temperature, _masked(t, mask) / temperature
    return -(t.softmax(-1) * s.log_softmax(-1)).sum(-1).mean(1)


def mse(s: Tensor, t: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """``[b]``, without temperature."""
    return (_masked(s, mask) - _masked(t, mask)).square().mean((1, 2))


def hard(s: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """``[b]`` whose mean is the mean over unmasked tokens, 0 without any."""
    rows = F.cross_entropy(s.flatten(0, 1), labels.flatten(), reduction="none").view(mask.shape)
    return _ratio((rows * mask).sum(1), int(mask.sum()))


def top(kind: str, s: Tensor, t: Tensor, mask: Tensor, n: int, temperature: float) -> Tensor:
    """``[b]``: KL or MSE over the teacher's ``n`` largest."""
    s, t = _masked(s, mask), _masked(t, mask)
    t_top, index = t.topk(n, -1)
    s_top = s.gather(-1, index)
    if kind == "mse":
        return (s_top - t_top).square().mean((1, 2))
    everywhere = torch.ones_like(mask)
    return kl(s_top, t_top, everywhere, temperature)


def hinge(s: Tensor, t: Tensor, mask: Tensor, n: int) -> Tensor:
    """``[b]``: by how much logits outside the teacher's top exceed the lowest inside."""
    sums, exceeding = [], 0
    zero = s.sum() * 0.0
    for sample in range(s.shape[0]):
        total = zero
        for position in mask[sample].nonzero()[:, 0]:
            row, order = s[sample, position], t[sample, position].argsort(descending=True)
            floor = row[order[:n]].min()
            above = [row[i] - floor for i in order[n:] if row[i] > floor]
            total = total + sum(above)
            exceeding += len(above)
        sums.append(total)
    return _ratio(torch.stack(sums), exceeding)


def least_below_top(t: Tensor, n: int) -> Tensor:
    """``[b, s, V]`` with all but each row's ``n`` largest set to the row's smallest."""
    kept = torch.zeros_like(t, dtype=torch.bool).scatter(-1, t.topk(n, -1).indices, True)
    return torch.where(kept, t, t.amin(-1, keepdim=True))


def relation(s: Tensor, t: Tensor) -> Tensor:
    """``[b]`` of ``[b, n, s, d]``: KL of the softmaxed scaled self-products."""
    s, t = (x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5 for x in (s, t))
    return F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1).mean((1, 2))


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    return x * mask.unsqueeze(-1)


def _ratio(sums: Tensor, count: int) -> Tensor:
    return sums * (len(sums) / count) if count else sums * 0.0
