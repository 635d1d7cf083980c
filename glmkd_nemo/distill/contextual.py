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

from glmkd_nemo.distill.angles import AllPairs, SquaredError, Windows, angle_error
from glmkd_nemo.distill.losses import at_least_fp32, ratio_of_means
from glmkd_nemo.distill.relations import relation_kl


def word_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL of the softmaxed cosines between a token and the other tokens of its sequence.

    Args:
        student: ``[b, s, h]``.
        teacher: ``[b, s, h']``.
        mask: ``[b, s]`` booleans, tokens that count.

    Returns:
        ``[b]``, the mean over pairs.
    """
    s, t = (F.normalize(at_least_fp32(x), dim=-1) for x in (student, teacher))
    loss = relation_kl(s, t, (1.0, 1.0), mask)
    return ratio_of_means(loss, mask.sum(1).square())


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
    reach = window // 2
    s, t = (_repeat_ends(at_least_fp32(x), reach) for x in (student, teacher))
    weight = mask.to(s.dtype) / window**2
    return ratio_of_means(angle_error(s, t, Windows(reach), SquaredError(weight))[0], mask.sum(1))


def layer_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL of the softmaxed cosines between a layer and the other layers at the same token.

    Args:
        student: ``[b, s, layers, h]``.
        teacher: ``[b, s, layers, h']``.
        mask: ``[b, s]`` booleans, tokens that count.

    Returns:
        ``[b]``, the mean over unmasked tokens and pairs of layers.
    """
    itself = torch.eye(student.shape[2], dtype=torch.bool, device=mask.device)
    log_q, log_p = (_log_relation(at_least_fp32(x), itself) for x in (student, teacher))
    terms = torch.where(itself, 0.0, log_p.exp() * (log_p - log_q))
    return ratio_of_means((terms.mean((2, 3)) * mask).sum(1), mask.sum(1))


def layer_angle(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared error of the angles at a layer between any two layers at the same token.

    Args:
        student, teacher, mask: as in :func:`layer_distance`.

    Returns:
        ``[b]``, the mean over unmasked tokens and triplets of layers.
    """
    s, t = (at_least_fp32(x).flatten(0, 1) for x in (student, teacher))
    weight = mask.flatten().to(s.dtype) / student.shape[2] ** 3
    error = SquaredError(weight.unsqueeze(1).expand(-1, student.shape[2]))
    loss = angle_error(s, t, AllPairs(), error)[0].view(mask.shape)
    return ratio_of_means(loss.sum(1), mask.sum(1))


def _repeat_ends(x: Tensor, count: int) -> Tensor:
    """``[b, s, h] -> [b, count + s + count, h]``."""
    first, last = (end.expand(-1, count, -1) for end in (x[:, :1], x[:, -1:]))
    return torch.cat([first, x, last], 1)


def _log_relation(x: Tensor, itself: Tensor) -> Tensor:
    """``[..., n, h] -> [..., n, n]``: log-softmax of cosines with the others.

    From inner products, which are small here, so that no normalised copy of ``x`` is kept.
    """
    products = x @ x.mT
    lengths = products.diagonal(dim1=-2, dim2=-1).clamp_min(1e-24).sqrt()
    cosines = products / lengths.unsqueeze(-1) / lengths.unsqueeze(-2)
    return cosines.masked_fill(itself, torch.finfo(x.dtype).min).log_softmax(-1)
