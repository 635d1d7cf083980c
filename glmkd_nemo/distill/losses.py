"""Losses on tapped tensors and logits: pure functions, computed in fp32 (or better).

Per-position functions work on rows ``[..., V']`` of logits, ``V'`` this rank's columns, and return
``[...]``; per-sample functions return ``[b]``. None of them knows a configuration. Values and
gradients are those of one process whatever the tensor parallelism.

Two conventions are kept from GLMKD (arXiv 2306.06629), on which the published hyper-parameters
were tuned: a mask multiplies *logits* before the softmax, and means run over all ``b * s``
positions, masked ones included. A masked row is all zeros for student and teacher alike: its KL and
MSE are 0 and its cross-entropy ``log V``, so only unmasked rows ever go through the head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.parallel import all_max, all_sum, shared, tp_size
from glmkd_nemo.distill.positions import Positions, positions
from glmkd_nemo.distill.taps import Tap, as_tap
from glmkd_nemo.models.logits import Logits, comparable

KINDS = ("kl", "ce", "mse")
_NO_OVERFLOW = 40.0  # e^u stays far from the largest fp32 number


def at_least_fp32(x: Tensor) -> Tensor:
    """``x`` in fp32, or as it is if that is already its precision or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def log_partition(logits: Tensor) -> Tensor:
    """Logarithm of the softmax denominator, over all ranks' columns: ``[..., V'] -> [...]``."""
    peak = all_max(row_peak(logits).squeeze(-1))
    return peak + all_sum((logits - peak.unsqueeze(-1)).exp().sum(-1)).log()


def row_peak(logits: Tensor) -> Tensor:
    """``[..., V'] -> [..., 1]``, the largest of this rank's columns, without gradient; minus
    infinity where they are nothing but padding."""
    if logits.shape[-1]:
        return logits.detach().amax(-1, keepdim=True)
    return logits.new_full((*logits.shape[:-1], 1), -math.inf)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) at a temperature, times its square (arXiv 1503.02531).

    Args:
        student, teacher: logits ``[..., V']``.

    Returns:
        ``[...]``, summed over the vocabulary.
    """
    s, t = at_least_fp32(student) / temperature, at_least_fp32(teacher) / temperature
    log_p = t - shared(log_partition(t)).unsqueeze(-1)
    p, lead = log_p.exp(), s - t
    # With u the student's lead over its mean under p, KL = log(sum p e^u), which is
    # log(1 + sum p (e^u - 1)), and sum p u = 0. Summing p (e^u - 1 - u), terms of one sign, loses
    # nothing in fp32; the difference of entropies would, being thousands of times smaller than
    # either at high temperatures.
    u = lead - shared(all_sum((p * lead).sum(-1))).unsqueeze(-1)
    largest = all_max(u.amax(-1) if u.shape[-1] else u.sum(-1))
    close = largest < _NO_OVERFLOW
    if u.is_cpu and bool(close.all()):  # nobody to wait for; elsewhere both forms are computed
        return all_sum((p * (u.expm1() - u)).sum(-1)).log1p() * temperature**2
    u = u.clamp(max=_NO_OVERFLOW)
    near = all_sum((p * (u.expm1() - u)).sum(-1)).log1p()
    far = all_sum((p * (log_p - s)).sum(-1)) + log_partition(s)
    return torch.where(close, near, far) * temperature**2


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student under the teacher's distribution, without the factor T^2.

    Args:
        student, teacher: logits ``[..., V']``.

    Returns:
        ``[...]``.
    """
    s, t = at_least_fp32(student) / temperature, at_least_fp32(teacher) / temperature
    p = (t - shared(log_partition(t)).unsqueeze(-1)).exp()
    return log_partition(s) - all_sum((p * s).sum(-1))


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of logits, summed over all ranks' columns: ``[..., V'] -> [...]``."""
    return all_sum((at_least_fp32(student) - at_least_fp32(teacher)).square().sum(-1))


def cross_entropy(logits: Tensor, labels: Tensor, first_column: int = 0) -> Tensor:
    """Cross-entropy with hard labels.

    Args:
        logits: ``[..., V']``, padding columns already left out (Megatron-Core's own function
            takes equal shards with the padding in, where it would count in the softmax).
        labels: ``[...]`` token ids.
        first_column: vocabulary id of this rank's first column.

    Returns:
        ``[...]``.
    """
    x = at_least_fp32(logits)
    local = labels - first_column
    mine = (local >= 0) & (local < x.shape[-1])
    if x.shape[-1]:
        index = local.clamp(0, x.shape[-1] - 1).unsqueeze(-1)
        picked = x.gather(-1, index).squeeze(-1).masked_fill(~mine, 0.0)
    else:
        picked = x.sum(-1)  # zero, and still on the graph
    return log_partition(x) - all_sum(picked)


def prediction(
    kind: str,
    student: Logits,
    teacher: Logits,
    mask: Tensor | Positions,
    temperature: float = 1.0,
) -> Tensor:
    """A soft-label loss, averaged over all positions of a sample.

    Args:
        kind: ``"kl"`` (times T^2), ``"ce"`` (no factor) or ``"mse"`` (no temperature, mean over
            the vocabulary too).
        mask: ``[b, s]``, positions that count.

    Returns:
        ``[b]``.

    Raises:
        ValueError: another kind.
    """
    student, teacher = comparable(student, teacher)
    s, t = student.rows(mask), teacher.rows(mask)
    return prediction_of_rows(kind, s, t, mask, student.vocab_size, temperature)


def row_values(kind: str, s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """A soft-label loss of each row: ``[..., V'] -> [...]``; ``mse`` is a sum over the vocabulary.

    Raises:
        ValueError: another kind.
    """
    if kind == "kl":
        return kl(s, t, temperature)
    if kind == "ce":
        return soft_cross_entropy(s, t, temperature)
    if kind == "mse":
        return squared_error(s, t)
    raise ValueError(f"soft loss {kind!r} is unknown: {', '.join(KINDS)}.")


def prediction_of_rows(
    kind: str,
    s: Tensor,
    t: Tensor,
    mask: Tensor | Positions,
    vocab_size: int,
    temperature: float,
) -> Tensor:
    """:func:`prediction` on logits ``[rows, V']`` taken (and changed) already: ``[b]``."""
    where, rows = positions(mask), row_values(kind, s, t, temperature)
    return soft_average(kind, where, vocab_size, rows.dtype).of(where.sum(rows))


class Average(NamedTuple):
    """A sample's loss from the sum of its rows: ``scale * sum + constant`` (of masked rows)."""

    scale: Tensor | float
    constant: Tensor | float = 0.0

    def of(self, sums: Tensor) -> Tensor:
        """``[b] -> [b]``."""
        return self.scale * sums + self.constant


def soft_average(kind: str, where: Positions, vocab_size: int, dtype: torch.dtype) -> Average:
    """The mean over all positions, masked ones too (and of ``mse`` over the vocabulary); these are
    rows of zeros, whose soft cross-entropy is ``log V``, and 0 any other loss."""
    scale = 1 / (where.shape[1] * (vocab_size if kind == "mse" else 1))
    if kind != "ce":
        return Average(scale)
    masked = where.shape[1] - where.numbers(dtype)
    return Average(scale, scale * math.log(vocab_size) * masked)


def mse(student: Tap | Tensor, teacher: Tap | Tensor) -> Tensor:
    """Mean squared error over everything but the batch axis.

    Args:
        student, teacher: ``[b, ...]`` of one shape, sharded alike.

    Returns:
        ``[b]``.
    """
    s, t = as_tap(student), as_tap(teacher)
    assert s.shard == t.shard, "student and teacher tensors are sharded differently"
    error = (at_least_fp32(s.value) - at_least_fp32(t.value)).square().flatten(1).mean(1)
    return error if s.shard is None else all_sum(error) / tp_size()


def cosine(student: Tap | Tensor, teacher: Tap | Tensor) -> Tensor:
    """1 - cosine similarity of the last axis, averaged over the positions of a sample.

    Args:
        student, teacher: ``[b, ..., d]``, sharded at most by head.

    Returns:
        ``[b]``.
    """
    s, t = as_tap(student), as_tap(teacher)
    assert s.shard == t.shard, "student and teacher tensors are sharded differently"
    similarity = F.cosine_similarity(at_least_fp32(s.value), at_least_fp32(t.value), dim=-1)
    loss = 1 - similarity.flatten(1).mean(1)
    return loss if s.shard is None else all_sum(loss) / tp_size()


def sample_sum(rows: Tensor, mask: Tensor | Positions) -> Tensor:
    """Sums values of unmasked rows by sample: ``[n]`` with ``mask [b, s]`` -> ``[b]``."""
    return positions(mask).sum(rows)


def ratio_of_means(numerator: Tensor, count: Tensor) -> Tensor:
    """``[b]`` whose mean is ``sum(numerator) / sum(count)``; 0 where nothing is counted."""
    return numerator / mean_count(count.to(numerator.dtype))


def mean_count(count: Tensor) -> Tensor:
    """The mean of ``[b]`` counts, to divide by: 1 where nothing is counted."""
    mean = count.mean()
    return torch.where(mean > 0, mean, torch.ones_like(mean))
