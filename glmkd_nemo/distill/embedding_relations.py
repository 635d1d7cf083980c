"""Relations of hidden states, to each other and to the vocabulary: ERDistill's losses.

Pure functions, the same value and gradient whatever the tensor parallelism; computed in fp32 (or
better). Padded positions count like all others.
"""

from __future__ import annotations

import math

from torch import Tensor

from glmkd_nemo.distill.losses import at_least_fp32, kl
from glmkd_nemo.distill.relations import relation_error, relation_kl
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
    s, t = (at_least_fp32(x.value) for x in (student, teacher))
    if kind == "mse":
        return relation_error(s, t, (1 / length,) * 2) / length**2
    return relation_kl(s, t, (1 / math.sqrt(length),) * 2) / length


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
    if kind == "kl":
        return kl(mine.project(student.value), its.project(teacher.value)).mean(1)
    s, t = student.value.double(), teacher.value.double()
    squares = _form(s, mine.column_products(mine), s) + _form(t, its.column_products(its), t)
    errors = squares - 2 * _form(s, mine.column_products(its), t)
    return errors.mean(1).to(at_least_fp32(student.value).dtype) / mine.vocab_size


def _form(x: Tensor, products: Tensor, y: Tensor) -> Tensor:
    """``x^T products y`` of each position: ``[b, s, h], [h, k], [b, s, k] -> [b, s]``."""
    return ((x @ products) * y).sum(-1)
