"""Divergences written from their definitions, and logits to compare them on."""

from __future__ import annotations

import torch
from torch import Tensor

from glmkd_nemo.distill.divergences import SoftLoss

LOSSES = [
    SoftLoss("reverse_kl"),
    SoftLoss("jsd"),
    SoftLoss("jsd", beta=0.9),
    SoftLoss("skewed_kl"),
    SoftLoss("skewed_kl", skew=0.7),
]
TEMPERATURES = (0.05, 1.0, 15.0)
VOCAB = 7
MASK = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]]).bool()


def rows(seed: int, vocab: int = VOCAB) -> Tensor:
    """``[n, V]`` in float64 for the positions of the mask."""
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(int(MASK.sum()), vocab, generator=g, dtype=torch.float64)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """``[n]`` of probabilities ``[n, V]``."""
    return (p * (p.log() - q.log())).sum(-1)


def of_rows(loss: SoftLoss, student: Tensor, teacher: Tensor) -> Tensor:
    """``[n]`` of logits ``[n, V]``, without the factor."""
    q, p = ((x / loss.temperature).softmax(-1) for x in (student, teacher))
    if loss.loss == "reverse_kl":
        return kl(q, p)
    if loss.loss == "jsd":
        m = loss.beta * p + (1 - loss.beta) * q
        return loss.beta * kl(p, m) + (1 - loss.beta) * kl(q, m)
    return kl(p, loss.skew * p + (1 - loss.skew) * q)


def plain(loss: SoftLoss, student: Tensor, teacher: Tensor) -> Tensor:
    """``[b]``: sum over a sample's rows, over all its positions, times T^2."""
    found = of_rows(loss, student, teacher)
    sums = [found[MASK.nonzero()[:, 0] == b].sum() for b in range(len(MASK))]
    return torch.stack(sums) * loss.temperature**2 / MASK.shape[1]
