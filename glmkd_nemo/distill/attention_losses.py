"""Losses on attention: distributions over positions, and relations inside a layer.

Pure functions on head-sharded taps, computed in fp32 (or better). Each returns ``[b]``, the mean
over all heads and all positions, padded ones included, as GLMKD has it; values and gradients are
those of one process whatever the tensor parallelism.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from glmkd_nemo.distill.losses import at_least_fp32, mse
from glmkd_nemo.distill.method import ModelShape
from glmkd_nemo.distill.parallel import all_sum, tp_size
from glmkd_nemo.distill.relations import relation, scores_kl
from glmkd_nemo.distill.taps import HEADS, Tap
from glmkd_nemo.models.attention import MASKED_SCORE


def attention_mse(student: Tap, teacher: Tap) -> Tensor:
    """Mean squared error of ``scores``; masked entries are equal whatever the two precisions.

    (The constant of masked scores is no bf16 number: there it is 32 below that of fp32 and fp16.)

    Args:
        student, teacher: ``[b, n, s, s]``, of equally many heads.

    Returns:
        ``[b]``.
    """
    if student.value.dtype != teacher.value.dtype:
        student, teacher = (x.map(_not_below_masked) for x in (student, teacher))
    return mse(student, teacher)


def _not_below_masked(x: Tensor) -> Tensor:
    return at_least_fp32(x).clamp(min=MASKED_SCORE)


def attention_kl(student: Tap, teacher: Tap) -> Tensor:
    """KL(teacher || student) of the softmax over the last axis.

    On ``scores`` this compares attention distributions (arXiv 1904.09482 and others). MiniLM in
    GLMKD gives it ``probs``, which then go through the softmax a second time.

    Args:
        student, teacher: ``[b, n, s, s]``, of equally many heads.

    Returns:
        ``[b]``.
    """
    assert student.shard == teacher.shard, "student and teacher are sharded differently"
    _, heads, rows, _ = student.value.shape
    loss = scores_kl(student.value, teacher.value) / (heads * rows)
    return loss if student.shard is None else all_sum(loss) / tp_size()


def head_relation(student: Tap, teacher: Tap, relation_heads: int) -> Tensor:
    """KL of scaled self-relations after cutting the whole width into ``relation_heads`` heads.

    The cut does not follow the attention heads (MiniLMv2, arXiv 2012.15828, section 3.1), so that
    student and teacher may differ in these and in width.

    Args:
        student, teacher: queries, keys or values ``[b, n, s, d]``; ``n * d`` may differ.
        relation_heads: a number that :func:`check_relation_heads` let pass.

    Returns:
        ``[b]``.
    """
    ranks = tp_size() if student.shard == HEADS else 1
    s, t = (x.map(partial(_cut_anew, heads=relation_heads // ranks)) for x in (student, teacher))
    return relation(s, t)


def check_equal_heads(method: str, student: ModelShape, teacher: ModelShape, remedy: str) -> None:
    """Refuses models whose attention cannot be compared head by head.

    Raises:
        ValueError: the numbers of heads differ.
    """
    if student.heads != teacher.heads:
        raise ValueError(
            f"{method} compares attention head by head, but the student has {student.heads} heads "
            f"and the teacher {teacher.heads}: {remedy}."
        )


def check_relation_heads(relation_heads: int, *widths: int) -> None:
    """Refuses a number of relation heads that cannot be cut out of these hidden sizes.

    Raises:
        ValueError: it does not divide a width, or the tensor-parallel ranks do not divide it: a
            relation head would lie on two ranks.
    """
    common = math.gcd(*widths)
    if relation_heads < 1 or common % relation_heads:
        fitting = [n for n in range(1, common + 1) if common % n == 0]
        raise ValueError(
            f"relation_heads={relation_heads} must divide the hidden sizes "
            f"{' and '.join(map(str, widths))}: {', '.join(map(str, fitting))} do."
        )
    ranks = tp_size()
    if relation_heads % ranks:
        raise ValueError(
            f"relation_heads={relation_heads} cannot be shared out to {ranks} tensor-parallel "
            f"ranks: choose a multiple of {ranks}, or another tensor_model_parallel_size."
        )


def _cut_anew(x: Tensor, heads: int) -> Tensor:
    """``[b, n, s, d] -> [b, heads, s, n * d / heads]``."""
    return x.transpose(1, 2).flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2)
