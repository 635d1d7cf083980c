"""Norm and clipping of gradients over all parameters at once, where mcore has no fused kernels.

Without Transformer Engine and Apex, Megatron-Core falls back on loops over parameters: one wait for
the device per parameter for the norm, and a fresh tensor per parameter for clipping. Torch has both
for lists of tensors; the results are the same bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import utils
from megatron.core.optimizer import clip_grads
from torch import Tensor


def install() -> None:
    """Puts the two functions in the place of mcore's fallbacks, if it uses those; idempotent."""
    fallbacks = {
        "l2_norm_impl": ("local_multi_tensor_l2_norm", _norm),
        "multi_tensor_scale_impl": ("local_multi_tensor_scale", _scale),
    }
    for name, (fallback, ours) in fallbacks.items():
        used = getattr(clip_grads, name, None)
        if used is not None and used is getattr(utils, fallback, None):
            setattr(clip_grads, name, ours)


def _norm(
    chunk_size: int, flag: Tensor, lists: Sequence[Sequence[Tensor]], per_tensor: bool, *rest: Any
) -> tuple[Tensor, None]:
    """Norm ``[1]`` of all tensors of ``lists[0]`` together."""
    norms = torch.stack(torch._foreach_norm(list(lists[0])))
    return torch.linalg.vector_norm(norms).float().reshape(1), None


def _scale(chunk_size: int, flag: Tensor, lists: Sequence[Sequence[Tensor]], factor: float) -> None:
    """Multiplies the tensors of ``lists[0]`` into those of ``lists[1]``, in practice the same."""
    source, target = (list(tensors) for tensors in lists)
    if any(a.data_ptr() != b.data_ptr() for a, b in zip(source, target, strict=True)):
        torch._foreach_copy_(target, source)
    torch._foreach_mul_(target, factor)
