"""Structure of representations: how tokens, spans and samples lie to one another.

The relations of MGSKD (Multi-Granularity Structural Knowledge Distillation, ACL 2022,
10.18653/v1/2022.acl-long.71, section 3). They compare scalars (products, cosines), so student and
teacher may differ in width. Everything is computed in fp32 or better, and alike on all
tensor-parallel ranks. A ratio of sums over the micro-batch is given as ``[b]`` whose mean it is; it
is 0 where nothing is counted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.losses import at_least_fp32, ratio_of_means


def check_relation_heads(method: str, heads: int, student: int, teacher: int) -> None:
    """Refuses a number of heads that does not divide the widths of student and teacher.

    Raises:
        ValueError: it does not.
    """
    if heads < 1 or student % heads or teacher % heads:
        raise ValueError(
            f"{method}: relation_heads {heads} must divide the hidden sizes {student} (student) "
            f"and {teacher} (teacher)."
        )


def angles(centre: Tensor, others: Tensor) -> Tensor:
    """Cosines of the angles at ``centre`` between the directions to any two of ``others``.

    Args:
        centre: ``[..., d]``.
        others: ``[..., k, d]``; one that coincides with the centre has cosine 0 with all.

    Returns:
        ``[..., k, k]``.
    """
    directions = F.normalize(others - centre.unsqueeze(-2), dim=-1)
    return directions @ directions.transpose(-1, -2)


def token_structure(
    student: Tensor, teacher: Tensor, mask: Tensor, heads: int, anchors: int, neighbours: int
) -> Tensor:
    """Pair-wise products and triplet-wise angles of the vectors of a sample.

    The products are taken per relation head. The triplets are those around the teacher's
    ``anchors`` vectors that get most attention (softmax of the products, summed over heads and
    queries), each with its ``neighbours`` closest by attention; angles are of whole vectors.

    Args:
        student: ``[b, l, h]``.
        teacher: ``[b, l, h']``.
        mask: ``[b, l]`` booleans, the vectors that count.
        heads: divides ``h`` and ``h'``.

    Returns:
        ``[b]``: squared error of the products over pairs, plus smooth L1 of the angles over
        triplets of which no angle is 0 at the student, as in GLMKD.
    """
    student, teacher = at_least_fp32(student), at_least_fp32(teacher)
    both = mask.unsqueeze(1) & mask.unsqueeze(2)
    s, t = _products(student, heads, both), _products(teacher, heads, both)
    pairs = ratio_of_means((s - t).square().sum((1, 2, 3)), heads * both.sum((1, 2)))
    with torch.no_grad():
        centre, near = _most_attended(t, both, anchors, neighbours)
        counted = mask.gather(1, centre).unsqueeze(-1) & _pick(mask, near)
        counted = counted.unsqueeze(-1) & counted.unsqueeze(-2)
        counted &= ~torch.eye(near.shape[-1], dtype=torch.bool, device=mask.device)
    s, t = (angles(_pick(x, centre), _pick(x, near)) for x in (student, teacher))
    counted = counted & (s != 0)
    errors = torch.where(counted, F.smooth_l1_loss(s, t, reduction="none"), 0.0)
    return pairs + ratio_of_means(errors.sum((1, 2, 3)), counted.sum((1, 2, 3)))


def span_structure(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    heads: int,
    anchors: int,
    neighbours: int,
    share: float,
    draw: Callable[[], random.Random],
) -> Tensor:
    """:func:`token_structure` of the means over random spans.

    Args:
        share: number of spans over the number of positions.
        draw: begins the random numbers anew, so that layers can have the same spans.
    """
    lengths = random_spans(mask.shape[1], share, draw())
    teacher, _ = span_means(teacher, mask, lengths)
    student, mask = span_means(student, mask, lengths)
    return token_structure(student, teacher, mask, heads, anchors, neighbours)


def sample_structure(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Angles between the samples of a micro-batch, each the mean of its unmasked vectors.

    Args:
        student: ``[b, l, h]``.
        teacher: ``[b, l, h']``.
        mask: ``[b, l]`` booleans.
        heads: divides ``h`` and ``h'``; angles are taken per head.

    Returns:
        ``[b]``: smooth L1 of the angles at a sample, the mean over heads and pairs of samples.
    """
    s, t = (_sample_angles(at_least_fp32(x), mask, heads) for x in (student, teacher))
    return F.smooth_l1_loss(s, t, reduction="none").mean((0, 2, 3))


def random_spans(length: int, share: float, draw: random.Random) -> list[int]:
    """Cuts a sequence at random.

    Args:
        length: positions of the sequence.
        share: number of spans over ``length``, at most 1; there is one span at least.
        draw: gives one Gaussian for each span, whose magnitude decides on its length.

    Returns:
        Lengths of the spans, each at least 1, their sum ``length``.
    """
    count = max(int(length * share), 1)
    sizes = [abs(draw.gauss(0.0, 1.0)) for _ in range(count)]
    scale = (length - count) / (sum(sizes) or 1.0)
    lengths = [int(size * scale) + 1 for size in sizes]
    missing = length - sum(lengths)
    return [n + (i >= count - missing) for i, n in enumerate(lengths)]


def span_means(x: Tensor, mask: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Means over spans, of all vectors in them, masked or not (as in GLMKD).

    Args:
        x: ``[b, l, h]``.
        mask: ``[b, l]`` booleans.
        lengths: of the spans, their sum is ``l``.

    Returns:
        ``[b, spans, h]``, and ``[b, spans]``: whether any vector in the span counts.
    """
    x, sizes = at_least_fp32(x), torch.tensor(lengths, device=x.device)
    span_of = torch.repeat_interleave(torch.arange(len(lengths), device=x.device), sizes)
    member = F.one_hot(span_of, len(lengths)).T.to(x.dtype)
    means = (member / sizes.unsqueeze(-1)) @ x
    return means, (member @ mask.to(x.dtype).unsqueeze(-1)).squeeze(-1) > 0


def _products(x: Tensor, heads: int, both: Tensor) -> Tensor:
    """``[b, l, h] -> [b, heads, l, l]``, scaled; 0 where not both vectors count."""
    x = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return x @ x.transpose(-1, -2) / math.sqrt(x.shape[-1]) * both.unsqueeze(1)


def _most_attended(
    products: Tensor, both: Tensor, anchors: int, neighbours: int
) -> tuple[Tensor, Tensor]:
    """Indices ``[b, a]`` of the anchors, and ``[b, a, n]`` of the neighbours of each."""
    both = both.unsqueeze(1)
    attention = (products + ~both * -10000.0).softmax(-1) * both
    length = products.shape[-1]
    centre = attention.sum((1, 2)).topk(min(anchors, length)).indices
    itself = torch.eye(length, device=products.device, dtype=torch.bool)
    local = attention.sum(1).masked_fill(itself, 0.0)
    rows = local.gather(1, centre.unsqueeze(-1).expand(-1, -1, length))
    return centre, rows.topk(min(neighbours, length)).indices


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """``x [b, l, ...]`` at ``index [b, ...]`` of its second axis."""
    sample = torch.arange(x.shape[0], device=x.device).view(-1, *[1] * (index.dim() - 1))
    return x[sample, index]


def _sample_angles(x: Tensor, mask: Tensor, heads: int) -> Tensor:
    """``[heads, b, b, b]``."""
    weights = mask.to(x.dtype).unsqueeze(-1)
    pooled = ((x * weights).sum(1) / weights.sum(1)).unflatten(-1, (heads, -1)).transpose(0, 1)
    return angles(pooled, pooled.unsqueeze(1))
