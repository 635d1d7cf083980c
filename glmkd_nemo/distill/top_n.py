"""Losses on the teacher's most likely tokens only, over a sharded vocabulary (GLMD's option)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.losses import at_least_fp32, ratio_of_means, sample_sum
from glmkd_nemo.distill.parallel import all_gather_last, all_max, all_sum, shared, tp_rank, tp_size
from glmkd_nemo.models.logits import Logits


def top_n(
    kind: str, student: Logits, teacher: Logits, mask: Tensor, n: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """GLMD's loss on the teacher's ``n`` most likely tokens only (arXiv 2306.06625).

    Args:
        n: a number of tokens, or a share of the vocabulary if below 1.

    Returns:
        The loss on these tokens ``[b]``, and a hinge ``[b]`` that keeps the student's other logits
        below its lowest logit among them (mean over the logits that violate it).
    """
    s, t = at_least_fp32(student.rows(mask)), at_least_fp32(teacher.rows(mask))
    count = _top_count(n, teacher.vocab_size)
    t_top, index = _top_of_all_ranks(t, count)
    s_top = _pick(s, index - student.columns.start)
    if kind == "mse":
        rows = (s_top - t_top).square().mean(-1)
    else:
        rows = _replicated_kl(s_top, t_top, temperature)
    excess = (s - shared(s_top.min(-1, keepdim=True).values)).relu()
    excess = excess.masked_fill(_is_top(s, index - student.columns.start), 0.0)
    violated = all_sum((excess > 0).sum(-1))
    hinge = ratio_of_means(
        sample_sum(all_sum(excess.sum(-1)), mask), sample_sum(violated.to(excess.dtype), mask)
    )
    return sample_sum(rows, mask) / mask.shape[1], hinge


def flattened_below_top(logits: Tensor, n: float, vocab_size: int) -> Tensor:
    """Logits ``[n, V']`` with every entry below the ``n`` largest replaced by the smallest."""
    count = _top_count(n, vocab_size)
    lowest_top = _top_of_all_ranks(logits, count)[0][..., -1:]
    smallest = -all_max((-logits).amax(-1, keepdim=True))
    return torch.where(logits >= lowest_top, logits, smallest)


def _top_count(n: float, vocab_size: int) -> int:
    return int(n * vocab_size) if 0 < n < 1 else int(n)


def _top_of_all_ranks(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values and vocabulary ids of the ``count`` largest of ``[n, V']``, the same on all ranks."""
    here = min(count, x.shape[-1])
    values, index = x.detach().topk(here, dim=-1)
    if tp_size() == 1:
        return values, index
    sizes = all_gather_last(torch.tensor([x.shape[-1]], device=x.device))
    index = index + int(sizes[: tp_rank()].sum())
    # every rank must send the same number of candidates
    values = all_gather_last(F.pad(values, (0, count - here), value=-math.inf))
    index = all_gather_last(F.pad(index, (0, count - here)))
    values, order = values.topk(count, dim=-1)
    return values, index.gather(-1, order)


def _pick(x: Tensor, local: Tensor) -> Tensor:
    """Columns ``local`` (counted from this rank's first; others' are out of range) of ``[n, V']``."""
    mine = (local >= 0) & (local < x.shape[-1])
    if not x.shape[-1]:
        return all_sum(x.sum(-1, keepdim=True).expand(local.shape))
    picked = x.gather(-1, local.clamp(0, x.shape[-1] - 1))
    return all_sum(picked.masked_fill(~mine, 0.0))


def _is_top(x: Tensor, local: Tensor) -> Tensor:
    # column V' collects the ids of other ranks
    marks = torch.zeros(*x.shape[:-1], x.shape[-1] + 1, dtype=torch.bool, device=x.device)
    outside = (local < 0) | (local >= x.shape[-1])
    marks.scatter_(-1, local.masked_fill(outside, x.shape[-1]), True)
    return marks[..., :-1]


def _replicated_kl(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    log_p, log_q = (t / temperature).log_softmax(-1), (s / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1) * temperature**2
