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

from glmkd_nemo.distill.angles import Chosen, SmoothL1, angle_error
from glmkd_nemo.distill.chunks import Buffers, blocks, elements, on_device
from glmkd_nemo.distill.losses import at_least_fp32, ratio_of_means
from glmkd_nemo.distill.relations import relation_error


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
    weights, length = mask.unsqueeze(-1), mask.sum(1)
    s, t = (at_least_fp32(x) * weights for x in (student, teacher))
    (mine, its), scales = zip(*(_by_head(x, heads) for x in (s, t)), strict=True)
    pairs = relation_error(mine, its, scales).view(-1, heads).sum(1)
    with torch.no_grad():
        centre, near = _most_attended(its, scales[1], mask, anchors, neighbours)
        counted = mask.gather(1, centre).unsqueeze(-1) & _pick(mask, near)
    errors, count = angle_error(s, t, Chosen(centre, near), SmoothL1(counted))
    return ratio_of_means(pairs, heads * length.square()) + ratio_of_means(errors, count)


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
    x = at_least_fp32(x)
    ends = torch.tensor(lengths).cumsum(0)
    start, end = on_device(torch.stack([ends - torch.tensor(lengths), ends]), x).unsqueeze(-1)
    place = torch.arange(x.shape[1], device=x.device)
    member = ((place >= start) & (place < end)).to(x.dtype)
    return (member / (end - start)) @ x, (member @ mask.to(x.dtype).unsqueeze(-1)).squeeze(-1) > 0


def _by_head(x: Tensor, heads: int) -> tuple[Tensor, float]:
    """``[b, l, h] -> [b * heads, l, d]``, and the scale of products of its vectors."""
    x = x.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)
    return x, 1 / math.sqrt(x.shape[-1])


def _most_attended(
    x: Tensor, scale: float, mask: Tensor, anchors: int, neighbours: int
) -> tuple[Tensor, Tensor]:
    """Indices ``[b, a]`` of the anchors, and ``[b, a, n]`` of the neighbours of each.

    Args:
        x: ``[b * heads, l, d]``, 0 where a vector does not count.
    """
    length, found = mask.shape[1], []
    itself = torch.eye(length, device=x.device, dtype=torch.bool)
    for sample, counts in zip(x.unflatten(0, (len(mask), -1)), mask, strict=True):
        attention = _attention(sample, scale, counts)
        centre = attention.sum(0).topk(min(anchors, length)).indices
        rows = attention.masked_fill_(itself, 0.0)[centre]
        found.append((centre, rows.topk(min(neighbours, length)).indices))
    centres, near = zip(*found, strict=True)
    return torch.stack(centres), torch.stack(near)


def _attention(x: Tensor, scale: float, counts: Tensor) -> Tensor:
    """Softmax of the products of ``[heads, l, d]``, summed over heads: ``[l, l]``."""
    (heads, length, _), buffers = x.shape, Buffers(x)
    both = counts & counts.unsqueeze(1)
    away = x.new_zeros(length, length).masked_fill_(~both, -10000.0)
    total = x.new_zeros(length, length)
    for several, rows in blocks(heads, length, length, elements(x)):
        shape = (several.stop - several.start, rows.stop - rows.start, length)
        products, shares = buffers.get(0, *shape), buffers.get(1, *shape)
        left_out = away[rows].expand(shape)
        torch.baddbmm(left_out, x[several, rows], x[several].mT, alpha=scale, out=products)
        total[rows] += torch.softmax(products, -1, out=shares).sum(0)
    return total.mul_(both)


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """``x [b, l]`` at ``index [b, ...]`` of its second axis."""
    return x.gather(1, index.flatten(1)).view(index.shape)


def _sample_angles(x: Tensor, mask: Tensor, heads: int) -> Tensor:
    """``[heads, b, b, b]``."""
    weights = mask.to(x.dtype).unsqueeze(-1)
    pooled = ((x * weights).sum(1) / weights.sum(1)).unflatten(-1, (heads, -1)).transpose(0, 1)
    return angles(pooled, pooled.unsqueeze(1))
