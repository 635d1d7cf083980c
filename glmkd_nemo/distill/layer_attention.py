"""What methods that compare pooled layers share: combining, projecting, attending, comparing.

Pure functions on small vectors ``[b, ..]``, which every tensor-parallel rank has whole; computed in
fp32 (or better).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkd_nemo.distill.losses import at_least_fp32
from glmkd_nemo.distill.method import Taps
from glmkd_nemo.distill.taps import TapKey

Keys = tuple[TapKey, ...]


def layers_of(taps: Taps, keys: Keys, side_by_side: bool = False) -> Tensor:
    """Pooled layers ``[b, h]`` as one tensor ``[b, layers, h]``, or ``[b, 1, layers * h]``."""
    values = [taps[key].value for key in keys]
    return torch.cat(values, 1).unsqueeze(1) if side_by_side else torch.stack(values, 1)


def project(projection: nn.Module, x: Tensor) -> Tensor:
    """A trainable projection of a tensor that may come from a model of another precision.

    Args:
        projection: an ``nn.Linear``.
        x: ``[..., d]``.

    Returns:
        ``[..., u]``.
    """
    assert isinstance(projection, nn.Linear)
    return at_least_fp32(projection(x.to(projection.weight.dtype)))


def project_each(projections: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Each layer by a projection of its own: ``[b, layers, d] -> [b, layers, u]``."""
    each = zip(projections, x.unbind(1), strict=True)
    return torch.stack([project(projection, layer) for projection, layer in each], 1)


def attend(query: Tensor, keys: Tensor) -> Tensor:
    """The mean of ``keys``, each weighted by the softmax of its product with the query.

    The attention over a teacher's layers of ALP-KD (arXiv 2012.14022): not scaled, and with
    gradient through the weights.

    Args:
        query: ``[b, d]``, one layer of the student.
        keys: ``[b, layers, d]``, those of the teacher.

    Returns:
        ``[b, d]``.
    """
    query, keys = at_least_fp32(query), at_least_fp32(keys)
    weights = (keys @ query.unsqueeze(-1)).softmax(1)
    return (weights * keys).sum(1)


def vector_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) between the softmaxes of two vectors: ``[b, d]`` each -> ``[b]``.

    The gradient flows into the teacher's vector too: it comes from a trainable projection.
    """
    log_p = at_least_fp32(teacher).log_softmax(-1)
    log_q = at_least_fp32(student).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def direction_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of vectors scaled to length 1: ``[b, layers, d]`` each -> ``[b]``, summed
    over the layers."""
    s, t = (F.normalize(at_least_fp32(x), dim=-1) for x in (student, teacher))
    return (s - t).square().sum((1, 2))
