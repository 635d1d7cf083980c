"""Relations of hidden states, to each other and to the vocabulary: ERDistill's losses.

Pure functions, the same value and gradient whatever the tensor parallelism; computed in fp32 (or
better). Padded positions count like all others.
"""

from __future__ import annotations

import math

from torch import Tensor

from glmkd_nemo.distill.losses import at_least_fp32, kl, squared_error
from glmkd_nemo.distill.taps import Tap
from glmkd_nemo.models.logits import Logits, comparable

KINDS = ("mse", "kl")


def local_relation(kind: str, student: Tap, teacher: Tap) -> Tensor:
    """Products of each position with all positions, compared.

    Args:
        kind: ``"mse"`` (products over the length of the sequence) or ``"kl"`` (of their softmax,
            over the square root of that length, as in GLMKD).
        student, teacher: ``[b, s, h]``, not sharded; widths may differ.

    Returns:
        ``[b]``, the mean over positions.
    """
    length = student.value.shape[1]
    scale = length if kind == "mse" else math.sqrt(length)
    s, t = (_products(x.value) / scale for x in (student, teacher))
    if kind == "mse":
        return (s - t).square().mean((1, 2))
    log_p, log_q = t.log_softmax(-1), s.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(1)


def global_relation(
    kind: str, student: Tap, student_head: Logits, teacher: Tap, teacher_head: Logits
) -> Tensor:
    """Products of each position with all word embeddings, compared.

    Args:
        kind: ``"mse"`` (mean over the vocabulary) or ``"kl"`` (of their softmax).
        student, teacher: ``[b, s, h]``, not sharded; widths may differ.
        student_head, teacher_head: handles whose weights are the word embeddings.

    Returns:
        ``[b]``, the mean over positions.
    """
    mine, its = comparable(student_head, teacher_head)
    s, t = mine.project(student.value), its.project(teacher.value)
    by_position = squared_error(s, t) / mine.vocab_size if kind == "mse" else kl(s, t)
    return by_position.mean(1)


def _products(x: Tensor) -> Tensor:
    x = at_least_fp32(x)
    return x @ x.transpose(1, 2)
