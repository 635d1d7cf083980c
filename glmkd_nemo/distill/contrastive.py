"""LRC-BERT's contrast of samples, and its perturbation (arXiv 2012.07335, sections 3.1, 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.losses import at_least_fp32
from glmkd_nemo.distill.parallel import dp_rank, gather_samples


def cos_nce(student: Tensor, teacher: Tensor, gather_dp: bool = False) -> Tensor:
    """COS-NCE: near to the teacher's view of a sample, far from its view of the other samples.

    With ``g`` the cosine distance, averaged over *all* positions as in GLMKD, a sample's loss is
    ``1 + g(own) - mean over the others of (g(other) - g(own)) / 2``.

    Args:
        student, teacher: ``[b, s, h]``.
        gather_dp: contrast with the samples of all data-parallel ranks, not this one's only.

    Returns:
        ``[b]``, of this rank's samples.

    Raises:
        ValueError: there is no other sample to contrast with.
    """
    b, length = student.shape[:2]
    mine, theirs = at_least_fp32(student), at_least_fp32(teacher)
    first = 0
    if gather_dp:
        theirs, first = gather_samples(theirs), dp_rank() * b
    others = len(theirs) - 1
    if others == 0:
        raise ValueError(
            "lrc_bert contrasts a sample with the others of its micro-batch, which has one only: "
            "set micro_batch_size to 2 or more (or gather_dp=true with data parallelism)."
        )
    # products of the vectors as they are, so that no normalised copy of them has to be kept
    products = mine.transpose(0, 1) @ theirs.permute(1, 2, 0)
    lengths = (torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-12).T for x in (mine, theirs))
    cosines = products / next(lengths).unsqueeze(2) / next(lengths).unsqueeze(1)
    distance = 1 - cosines.sum(0) / length
    own = distance.diagonal(first)
    return 1 + own - (distance.sum(1) - own - others * own) / others / 2


def perturbed(x: Tensor, gradient: Tensor) -> Tensor:
    """``x`` plus the direction of a gradient on it.

    Args:
        x, gradient: ``[..., h]``; the gradient may be scaled, each vector of it is brought to
            length 1. If any of it is not finite, ``x`` stays as it is.
    """
    direction = F.normalize(at_least_fp32(gradient), dim=-1).to(x.dtype)
    return x + torch.where(gradient.isfinite().all(), direction, 0.0)
