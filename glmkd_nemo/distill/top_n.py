"""Losses on the teacher's most likely tokens only, over a sharded vocabulary (GLMD's option)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.losses import at_least_fp32, ratio_of_means, sample_sum
from glmkd_nemo.distill.parallel import all_gather_last, all_max, all_sum, shared, tp_rank, tp_size
from glmkd_nemo.distill.positions import Positions
from glmkd_nemo.models.logits import Logits


def count(n: float | None, vocab_size: int) -> int:
    """How many tokens: ``n``, or below 1 that share of the vocabulary; from one to all.

    ``None`` is all.
    """
    if n is None:
        return vocab_size
    wanted = int(n * vocab_size) if 0 < n < 1 else int(n)
    return min(max(wanted, 1), vocab_size)


def top_n(
    loss: Callable[[Tensor, Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | Positions,
    n: int,
    first_column: int,
) -> tuple[Tensor, Tensor]:
    """Loss on the teacher's ``n`` most likely tokens, the rest of the student held below them.

    Args:
        loss: of these tokens' logits ``[rows, n]``, whole on every rank: ``[rows]``.
        student, teacher: logits ``[rows, V']`` of the positions in ``mask``.
        mask: ``[b, s]``.
        n: how many tokens.
        first_column: vocabulary id of this rank's first column.

    Returns:
        The loss ``[b]``, and the hinge ``[b]``: by how much other logits exceed the student's
        lowest among these tokens, the mean over the logits that do.
    """
    s, t = at_least_fp32(student), at_least_fp32(teacher)
    index = _top_of_all_ranks(t, n)[1] - first_column
    s_top, t_top = pick(s, index), pick(t, index)
    excess = (s - shared(s_top.min(-1, keepdim=True).values)).relu()
    excess = excess.masked_fill(_is_top(s, index), 0.0)
    exceeding = all_sum((excess > 0).sum(-1).to(excess.dtype))
    hinge = ratio_of_means(sample_sum(all_sum(excess.sum(-1)), mask), sample_sum(exceeding, mask))
    return sample_sum(loss(s_top, t_top), mask) / mask.shape[1], hinge


def flattened_below_top(logits: Tensor, n: int) -> Tensor:
    """``[rows, V']`` with every entry below the ``n`` largest replaced by the row's smallest."""
    lowest_top = _top_of_all_ranks(logits, n)[0][..., -1:]
    if logits.shape[-1]:
        largest_negated = (-logits).amax(-1, keepdim=True)
    else:
        largest_negated = logits.new_full((*logits.shape[:-1], 1), -math.inf)
    return torch.where(logits >= lowest_top, logits, -all_max(largest_negated))


def flattening(n: float) -> Callable[[Logits, Tensor], Tensor]:
    """:func:`flattened_below_top` as a ``TokenLoss`` changes a teacher's rows; ``n`` as above."""

    def change(student: Logits, rows: Tensor) -> Tensor:
        return flattened_below_top(rows, count(n, student.vocab_size))

    return change


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


def pick(x: Tensor, local: Tensor) -> Tensor:
    """Some columns of sharded logits, the same on all ranks.

    Args:
        x: ``[n, V']``, this rank's columns.
        local: ``[n, k]``, columns counted from this rank's first; others lie out of range.

    Returns:
        ``[n, k]``.
    """
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
