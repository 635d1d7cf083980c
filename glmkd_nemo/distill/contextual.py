"""The four relations of CKD: Distilling Linguistic Context for Language Model Compression
(arXiv 2109.08359, section 3).

Word relations hold between the tokens of one layer, layer-transforming relations between the layers
at one token. Both are compared as scalars, so student and teacher may differ in width. Everything
is computed in fp32 or better, and alike on all tensor-parallel ranks. Each function returns ``[b]``
whose mean is a ratio of sums over the micro-batch, divided as in GLMKD: by *all* pairs or triplets
of unmasked tokens, those of a token or layer with itself too, although these add nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.geometry import angles
from glmkd_nemo.distill.losses import at_least_fp32, ratio_of_means


def word_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL of the softmaxed cosines between a token and the other tokens of its sequence.

    Args:
        student: ``[b, s, h]``.
        teacher: ``[b, s, h']``.
        mask: ``[b, s]`` booleans, tokens that count.

    Returns:
        ``[b]``, the mean over pairs.
    """
    both = mask.unsqueeze(1) & mask.unsqueeze(2)
    loss = _distance(student, teacher, both).sum((1, 2))
    return ratio_of_means(loss, both.sum((1, 2)))


def word_angle(student: Tensor, teacher: Tensor, mask: Tensor, window: int) -> Tensor:
    """Squared error of the angles at a token between its neighbours, in a window around it.

    At the ends of the sequence the first and the last token stand in for those outside; masked
    neighbours take part, as in GLMKD.

    Args:
        student, teacher, mask: as in :func:`word_distance`.
        window: odd number of tokens.

    Returns:
        ``[b]``, the mean over unmasked tokens and pairs of neighbours.
    """
    length, reach = mask.shape[1], window // 2
    offsets = torch.arange(-reach, reach + 1, device=mask.device)
    near = (torch.arange(length, device=mask.device).unsqueeze(1) + offsets).clamp(0, length - 1)
    s, t = (angles(x, x[:, near]) for x in map(at_least_fp32, (student, teacher)))
    loss = ((s - t).square().mean((2, 3)) * mask).sum(1)
    return ratio_of_means(loss, mask.sum(1))


def layer_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL of the softmaxed cosines between a layer and the other layers at the same token.

    Args:
        student: ``[b, s, layers, h]``.
        teacher: ``[b, s, layers, h']``.
        mask: ``[b, s]`` booleans, tokens that count.

    Returns:
        ``[b]``, the mean over unmasked tokens and pairs of layers.
    """
    everything = torch.ones(student.shape[2:3] * 2, dtype=torch.bool, device=mask.device)
    loss = (_distance(student, teacher, everything).mean((2, 3)) * mask).sum(1)
    return ratio_of_means(loss, mask.sum(1))


def layer_angle(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared error of the angles at a layer between any two layers at the same token.

    Args:
        student, teacher, mask: as in :func:`layer_distance`.

    Returns:
        ``[b]``, the mean over unmasked tokens and triplets of layers.
    """
    s, t = (angles(x, x.unsqueeze(2)) for x in map(at_least_fp32, (student, teacher)))
    loss = ((s - t).square().mean((2, 3, 4)) * mask).sum(1)
    return ratio_of_means(loss, mask.sum(1))


def _distance(student: Tensor, teacher: Tensor, both: Tensor) -> Tensor:
    """Terms of KL(teacher || student) over the rows' cosines with the other rows.

    Args:
        student: ``[..., n, h]``.
        teacher: ``[..., n, h']``.
        both: ``[..., n, n]`` booleans, pairs that count; a row without any other gives 0, where
            GLMKD's softmax gives NaN.

    Returns:
        ``[..., n, n]``, 0 where a pair does not count.
    """
    others = both & ~torch.eye(both.shape[-1], dtype=torch.bool, device=both.device)
    log_q, log_p = (_log_relation(at_least_fp32(x), others) for x in (student, teacher))
    return torch.where(others, log_p.exp() * (log_p - log_q), 0.0)


def _log_relation(x: Tensor, others: Tensor) -> Tensor:
    x = F.normalize(x, dim=-1)
    cosines = x @ x.transpose(-1, -2)
    # the smallest number instead of -inf: a row that is all masked stays finite
    return cosines.masked_fill(~others, torch.finfo(x.dtype).min).log_softmax(-1)
