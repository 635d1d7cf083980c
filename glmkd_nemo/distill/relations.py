"""Self-relations: products of all positions with each other, compared between two models.

The ``[s, s]`` products of a head are made in blocks, used up and dropped: nothing larger than the
inputs lives on. Pure functions, in the precision of their inputs (fp32 or better, see
:func:`~.losses.at_least_fp32`), on one rank's heads.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from glmkd_nemo.distill.chunks import Buffers, Gradients, blocks, elements, pieces, with_gradient
from glmkd_nemo.distill.losses import at_least_fp32
from glmkd_nemo.distill.parallel import all_sum, tp_size
from glmkd_nemo.distill.taps import Tap

Scales = tuple[float, float]


def relation(student: Tap, teacher: Tap) -> Tensor:
    """KL of scaled dot-product self-relations, as MiniLM has for values (arXiv 2002.10957).

    Args:
        student, teacher: ``[b, n, s, d]``, widths ``d`` may differ, heads may not.

    Returns:
        ``[b]``, the mean over heads and positions.
    """
    s, t = student.value, teacher.value
    rows = relation_kl(
        at_least_fp32(s).flatten(0, 1),
        at_least_fp32(t).flatten(0, 1),
        (1 / math.sqrt(s.shape[-1]), 1 / math.sqrt(t.shape[-1])),
    )
    loss = rows.view(s.shape[:2]).mean(1) / s.shape[2]
    return loss if student.shard is None else all_sum(loss) / tp_size()


def relation_kl(
    student: Tensor, teacher: Tensor, scales: Scales, mask: Tensor | None = None
) -> Tensor:
    """KL(teacher || student) of the softmaxed products of positions.

    Args:
        student: ``[n, s, d]``.
        teacher: ``[n, s, d']``.
        scales: factors of the student's and the teacher's products.
        mask: ``[n, s]`` booleans. If given, a position is compared with the *other* positions that
            count only; one without any gives 0.

    Returns:
        ``[n]``, summed over positions.
    """
    return with_gradient(partial(_kl, scales, mask), student.mT, teacher.mT)[0]


def relation_error(student: Tensor, teacher: Tensor, scales: Scales) -> Tensor:
    """Squared error of the products of positions.

    Args:
        student: ``[n, s, d]``.
        teacher: ``[n, s, d']``.
        scales: factors of the student's and the teacher's products.

    Returns:
        ``[n]``, summed over pairs of positions.
    """
    return with_gradient(partial(_squared_error, scales), student.mT, teacher.mT)[0]


def scores_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax over the last axis of tensors that exist already.

    Args:
        student, teacher: ``[b, ..., c]``; the student's gradient is kept in its precision.

    Returns:
        ``[b]``, summed over rows.
    """
    return with_gradient(_kl_of_scores, student, teacher)[0]


def kl_in_place(log_q: Tensor, log_p: Tensor, p: Tensor, teacher_gradient: Tensor | None) -> Tensor:
    """KL of rows, with the gradients on the scores before the softmax.

    Sums of q and of p differ from 1, and from each other, by rounding only; taken in, they undo
    most of that of close distributions, whose divergence is far smaller than its terms.

    Args:
        log_q, log_p: ``[..., c]`` logarithms of the student's and the teacher's distribution. The
            first is overwritten by ``q - p``, the gradient on the student's scores.
        p: a buffer of that shape.
        teacher_gradient: likewise, filled if given.

    Returns:
        ``[...]``.
    """
    torch.exp(log_p, out=p)
    terms = log_p.sub_(log_q).mul_(p)
    if teacher_gradient is not None:
        sums = terms.sum(-1, keepdim=True)
        torch.addcmul(terms, p, sums, value=-1, out=teacher_gradient)
    q_minus_p = log_q.exp_().sub_(p)
    return terms.add_(q_minus_p).sum(-1)


def _kl(
    scales: Scales, mask: Tensor | None, s: Tensor, t: Tensor, gradients: Gradients
) -> tuple[Tensor, None]:
    n, _, length = s.shape  # [n, d, s]: few long rows, the faster shape for gradients
    value, buffers = s.new_zeros(n), Buffers(s)
    for several, rows in blocks(n, length, length, elements(s)):
        shape = (several.stop - several.start, rows.stop - rows.start, length)
        products, log_q, log_p = (buffers.get(i, *shape) for i in range(3))
        left_out = None if mask is None else _not_others(mask, several, rows)
        for x, scale, out in ((s, scales[0], log_q), (t, scales[1], log_p)):
            _products(x, several, rows, scale, products)
            if left_out is not None:
                # the smallest number instead of -inf: a row that is all masked stays finite
                products.masked_fill_(left_out, torch.finfo(s.dtype).min)
            torch.log_softmax(products, -1, out=out)
        of_teacher = None if gradients[1] is None else buffers.get(3, *shape)
        value[several] += kl_in_place(log_q, log_p, products, of_teacher).sum(1)
        _add_gradient(gradients[0], s, several, rows, log_q, scales[0])
        _add_gradient(gradients[1], t, several, rows, of_teacher, scales[1])
    return value, None


def _squared_error(
    scales: Scales, s: Tensor, t: Tensor, gradients: Gradients
) -> tuple[Tensor, None]:
    n, _, length = s.shape
    value, buffers = s.new_zeros(n), Buffers(s)
    for several, rows in blocks(n, length, length, elements(s)):
        error = buffers.get(0, several.stop - several.start, rows.stop - rows.start, length)
        _products(s, several, rows, scales[0], error)
        error.baddbmm_(t[several, :, rows].mT, t[several], alpha=-scales[1])
        value[several] += torch.linalg.vector_norm(error.flatten(1), dim=1).square()
        # rows and columns of the products change alike: twice the gradient by the rows
        for x, gradient, scale in ((s, gradients[0], scales[0]), (t, gradients[1], -scales[1])):
            if gradient is not None:
                gradient[several, :, rows].baddbmm_(x[several], error.mT, alpha=4 * scale)
    return value, None


def _kl_of_scores(s: Tensor, t: Tensor, gradients: Gradients) -> tuple[Tensor, None]:
    columns, dtype = s.shape[-1], at_least_fp32(s[:0]).dtype
    flat = [x.reshape(-1, columns) for x in (s, t)]
    into = [None if g is None else g.view(-1, columns) for g in gradients]
    value, buffers = s.new_empty(len(flat[0]), dtype=dtype), Buffers(s, dtype)
    for rows in pieces(len(value), elements(s) // columns):
        shape = (rows.stop - rows.start, columns)
        log_q, log_p, p = (buffers.get(i, *shape) for i in range(3))
        for x, out in zip(flat, (log_q, log_p), strict=True):
            torch.log_softmax(x[rows], -1, dtype=dtype, out=out)
        of_teacher = None if into[1] is None else buffers.get(3, *shape)
        value[rows] = kl_in_place(log_q, log_p, p, of_teacher)
        for gradient, found in zip(into, (log_q, of_teacher), strict=True):
            if gradient is not None and found is not None:
                gradient[rows] = found
    return value.view(len(s), -1).sum(1), None


def _products(x: Tensor, several: slice, rows: slice, scale: float, out: Tensor) -> None:
    torch.baddbmm(out, x[several, :, rows].mT, x[several], beta=0, alpha=scale, out=out)


def _add_gradient(
    gradient: Tensor | None,
    x: Tensor,
    several: slice,
    rows: slice,
    of_products: Tensor | None,
    scale: float,
) -> None:
    """Adds what a gradient on a block of the products means for their factors."""
    if gradient is None or of_products is None:
        return
    gradient[several, :, rows].baddbmm_(x[several], of_products.mT, alpha=scale)
    gradient[several].baddbmm_(x[several, :, rows], of_products, alpha=scale)


def _not_others(mask: Tensor, several: slice, rows: slice) -> Tensor:
    """``[m, r, s]``: pairs that do not count."""
    position = torch.arange(mask.shape[1], device=mask.device)
    itself = position[rows].unsqueeze(1) == position
    return ~(mask[several, rows].unsqueeze(2) & mask[several].unsqueeze(1)) | itself
