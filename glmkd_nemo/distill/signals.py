"""What aggregators know of a micro-batch: per-sample quantities of predictions.

Each works on token predictions (a ``Logits`` handle) and on a task's (a tap ``[b, c]``). As in
GLMKD, masked positions count as rows of zeros. All are equal on all tensor-parallel ranks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glmkd_nemo.distill.class_losses import hard_classes, real_log_softmax, task_of
from glmkd_nemo.distill.losses import at_least_fp32, cross_entropy, log_partition
from glmkd_nemo.distill.method import Batch
from glmkd_nemo.distill.parallel import all_sum, shared
from glmkd_nemo.distill.taps import as_tap
from glmkd_nemo.models.logits import Logits


def hard_loss(prediction: Any, batch: Batch) -> Tensor:
    """Cross-entropy with the labels, ``[b]``: of tokens the mean over a sample's targets."""
    if not isinstance(prediction, Logits):
        task = task_of(batch)
        return hard_classes(prediction, task.label, task.choice_mask)
    where = batch.positions("target")
    labels = prediction.columns_of(where.of(batch.labels))
    losses = cross_entropy(prediction.rows(where), labels, prediction.columns.start)
    return where.sum(losses) / where.mask.sum(1).clamp(min=1)


def batch_loss(prediction: Any, batch: Batch) -> Tensor:
    """Cross-entropy with the labels over the micro-batch, a scalar: of tokens the token mean."""
    if not isinstance(prediction, Logits):
        return hard_loss(prediction, batch).mean()
    counts = batch.target.sum(1)
    return (hard_loss(prediction, batch) * counts).sum() / counts.sum().clamp(min=1)


def normalized_entropy(prediction: Any, batch: Batch, mask: str) -> Tensor:
    """Entropy over its maximum, ``[b]``, the mean over all positions; masked ones have 1.

    Args:
        prediction: of tokens or classes.
        batch: the micro-batch.
        mask: name of the positions that count, for tokens.
    """
    if not isinstance(prediction, Logits):
        choice_mask = task_of(batch).choice_mask
        x = at_least_fp32(as_tap(prediction).value)
        real = torch.ones_like(x, dtype=torch.bool) if choice_mask is None else choice_mask.bool()
        log_p = real_log_softmax(x, real)
        return -(log_p.exp() * log_p * real).sum(-1) / real.sum(-1).clamp(min=2).log()
    where = batch.positions(mask)
    rows = at_least_fp32(prediction.rows(where))
    log_z = log_partition(rows)
    p = (rows - shared(log_z).unsqueeze(-1)).exp()  # of this rank's columns
    expected = all_sum((p * rows).sum(-1))
    entropy = where.sum(log_z - expected) / math.log(prediction.vocab_size)
    return (entropy + (~where.mask).sum(1)) / where.shape[1]


def selection_rates(entropy: Tensor, teachers: int, hard: bool) -> Tensor:
    """How much of each teacher a sample gets (arXiv 2204.00548, section 3).

    Args:
        entropy: ``[b]``, normalized, of the student.
        teachers: how many, from small to large.
        hard: one teacher per sample, by its rank in the batch, where there are enough samples.

    Returns:
        ``[b, teachers]``, rows summing up to ``teachers``.
    """
    b = entropy.shape[0]
    if teachers == 1:
        return entropy.new_ones(b, 1)
    places = torch.arange(teachers, device=entropy.device)
    if hard and b >= teachers:
        rank = (-entropy).argsort().argsort().unsqueeze(-1) + 1  # 1: the least sure
        share = rank / b * teachers
        return ((share > places) & (share <= places + 1)).to(entropy.dtype)
    h = entropy.unsqueeze(-1)
    rate = h + (1 - 2 * h) * places / (teachers - 1)
    return rate / rate.sum(-1, keepdim=True) * teachers


class Summary(NamedTuple):
    """Predictions of a sample, averaged over positions: ``values [b, v']`` from column ``start``
    on; ``sharded`` if other ranks have the other columns."""

    values: Tensor
    start: int
    sharded: bool


def summary(prediction: Any, batch: Batch, mask: str) -> Summary:
    """The predictions' mean over all positions, without gradient; masked ones count as zeros.

    Args:
        prediction: of tokens or classes.
        batch: the micro-batch.
        mask: name of the positions that count, for tokens.
    """
    if not isinstance(prediction, Logits):
        return Summary(as_tap(prediction).value.detach(), 0, sharded=False)
    where = batch.positions(mask)
    rows = prediction.rows(where).detach()
    total = rows.new_zeros(where.shape[0], rows.shape[-1])
    mean = total.index_add(0, where.sample, rows) / where.shape[1]
    return Summary(mean, prediction.columns.start, sharded=True)


def projected(x: Summary, weight: Tensor) -> Tensor:
    """A linear map of a summary.

    Args:
        x: of ``[b, v']``.
        weight: ``[n, v]`` for all columns, equal on all ranks; so is its gradient.

    Returns:
        ``[b, n]``.

    Raises:
        ValueError: more columns than the map was made for.
    """
    stop = x.start + x.values.shape[-1]
    if stop > weight.shape[-1]:
        raise ValueError(
            f"a prediction has {stop} values, but the agent was made for {weight.shape[-1]}: set "
            "distill.aggregator.classes to the largest number of answers."
        )
    values = x.values.to(weight.dtype)
    if not x.sharded:
        return values @ weight[:, x.start : stop].T
    return all_sum(values @ shared(weight)[:, x.start : stop].T)
