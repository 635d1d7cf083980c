"""Losses on a few rows of logits by Triton kernels: the CUDA form of ``fused_rows.py``.

A loss is two kernels. The first reads the logits once and leaves a few statistics per row, which
are merged over the parts of a row and, in one exchange, over the tensor-parallel ranks; the second
reads them again and writes the gradient, over the student's logits or elsewhere. Nothing waits for
the GPU: whether a row's distributions are so far apart that ``e^lead`` overflows is decided per row
on the device.

With ``lead`` the student's scaled logits minus the teacher's, m its mean under the teacher's p, and
``D = sum p (e^u - 1 - u)`` for ``u = lead - m``: KL(p || q) = log(1 + D), and
``log q - log p = u - log(1 + D)``, so that value and gradient keep their digits where student and
teacher are close. The reverse KL is the same with the roles exchanged.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glmkd_nemo.distill.parallel import all_gather_last

# What the kernel leaves per part of a row, see kl_statistics. "s_top" and "s_weight" are the
# student's largest logit and sum of exponentials.
STATISTICS = ("top", "weight", "center", "rest", "excess", "entropy", "s_top", "s_weight")
_BLOCK, _WARPS = 4096, 8  # columns of a row that a program has in registers at a time
_GRADIENT_BLOCK, _GRADIENT_WARPS = 2048, 8
_PROGRAMS, _MOST_PARTS = 4096, 16  # programs wanted, parts of a row at most
_LARGEST = 1e30  # of D; larger ones may have overflowed
_TYPES = (torch.float32, torch.bfloat16, torch.float16)  # all arithmetic is fp32


class Rows(NamedTuple):
    """What a gradient kernel needs to know of each row, and the values.

    Attributes:
        values: ``[c]`` fp32, of whole rows, without the factor T^2.
        entropy: ``[c]`` fp32, the teacher's (the student's, of the reverse KL); with ``values`` of
            KL added, the soft cross-entropy. 0 for hard labels.
        packed: ``[6, c]`` fp32: the teacher's maximum and 1 / sum of exponentials, the student's,
            a shift of leads in two parts; for hard labels ``[2, c]``, the student's two.
    """

    values: Tensor
    entropy: Tensor
    packed: Tensor


@cache
def available() -> bool:
    """Whether there are a GPU and Triton to use this."""
    return torch.cuda.is_available() and importlib.util.find_spec("triton") is not None


def takes(logits: Tensor) -> bool:
    """Whether such logits can go through the kernels: on a GPU, of at most 32 bits."""
    return available() and logits.is_cuda and logits.dtype in _TYPES


def kl_(
    s: Tensor,
    t: Tensor,
    row_weight: Tensor,
    out: Tensor | None = None,
    scale: float = 1.0,
    add: bool = False,
    reverse: bool = False,
) -> Rows:
    """KL(teacher || student), or KL(student || teacher), and its gradient.

    Args:
        s, t: logits ``[c, V']`` of this rank's columns, any float type and row stride.
        row_weight: ``[c]`` fp32, what each row's value is multiplied with for the gradient.
        out: ``[c, V']``, where the gradient by ``s`` goes; ``None`` for ``s`` itself.
        scale: of both logits before the softmax, 1 / T. The gradient is by the unscaled ones.
        add: whether it is added to what ``out`` has.
        reverse: the second of the two.

    Raises:
        RuntimeError: there is no Triton, or the tensors are not on a GPU.
        ValueError: shapes, strides or types that do not fit.
    """
    rows = merge_kl(all_gather_last(kl_statistics(s, t, scale, reverse)), reverse)
    kl_gradient_(s, t, rows, row_weight, out, scale, add, reverse)
    return rows


def cross_entropy_(
    s: Tensor,
    labels: Tensor,
    row_weight: Tensor,
    out: Tensor | None = None,
    scale: float = 1.0,
    add: bool = False,
) -> Rows:
    """Cross-entropy with hard labels, and its gradient.

    Args:
        labels: ``[c]`` integers, counted from this rank's first column: others' are out of range.
        s, row_weight, out, scale, add: as for :func:`kl_`, which raises the same errors.
    """
    rows = merge_labels(all_gather_last(label_statistics(s, labels, scale)))
    label_gradient_(s, labels, rows, row_weight, out, scale, add)
    return rows


def kl_statistics(s: Tensor, t: Tensor, scale: float = 1.0, reverse: bool = False) -> Tensor:
    """First half of :func:`kl_`: ``[8, c, parts]``, to be joined with other ranks' along the last
    axis. ``parts`` depends on ``c`` alone, so that it is the same on all ranks."""
    kernels = _kernels(s, t)
    first, second = (t, s) if reverse else (s, t)
    out, grid, columns = _statistics(s, len(STATISTICS))
    given = (first, second, out, first.stride(0), second.stride(0), *columns, scale)
    if out.numel():
        kernels.kl_statistics[grid](*given, BLOCK=_BLOCK, num_warps=_WARPS)
    return out


def merge_kl(statistics: Tensor, reverse: bool = False) -> Rows:
    """Whole rows from the statistics ``[8, c, parts of all ranks]`` of their parts."""
    top, weight, center, rest, excess, entropy, s_top, s_weight = statistics.double()
    peak, z, a = _partition(top, weight)  # a is -inf for a part without columns: its rest is 0
    s_peak, s_z, _ = _partition(s_top, s_weight)
    share, e = weight * a.exp(), a.exp()
    mean = (share * center + e * rest).sum(-1) / z
    middle = mean.float().double()  # of its rest, the kernels get as many digits again
    x = center - middle.unsqueeze(-1)
    moved = share * (x.expm1() - x) + e * x.expm1() * rest + (a + x).exp() * excess
    below = mean - middle
    d = moved.sum(-1) / z + below  # sum p (e^u - 1), u counted from the middle
    far = (s_peak + s_z.log()) - (peak + z.log()) - middle
    log_ratio = torch.where(d < _LARGEST, d.log1p(), far)
    entropies = z.log() - (share * a.clamp(min=-_LARGEST) + e * entropy).sum(-1) / z
    # log q - log p is lead - middle - log_ratio; the reverse's gradient has lead - mean under q
    packed = [peak, 1 / z, s_peak, 1 / s_z, middle, log_ratio]
    if reverse:
        packed = [s_peak, 1 / s_z, peak, 1 / z, -middle, -below]
    return Rows((log_ratio - below).float(), entropies.float(), torch.stack(packed).float())


def kl_gradient_(
    s: Tensor,
    t: Tensor,
    rows: Rows,
    row_weight: Tensor,
    out: Tensor | None = None,
    scale: float = 1.0,
    add: bool = False,
    reverse: bool = False,
) -> None:
    """Second half of :func:`kl_`."""
    out = s if out is None else out
    kernels, grid, blocks = _kernels(s, t, out), *_gradient(s, row_weight)
    strides = (s.stride(0), t.stride(0), out.stride(0))
    tensors = (s, t, out, rows.packed, row_weight * scale)
    given = (*tensors, *strides, *s.shape, blocks, scale, add, reverse)
    if s.numel():
        kernels.kl_gradient[grid](*given, BLOCK=_GRADIENT_BLOCK, num_warps=_GRADIENT_WARPS)


def label_statistics(s: Tensor, labels: Tensor, scale: float = 1.0) -> Tensor:
    """First half of :func:`cross_entropy_`: ``[3, c, parts]``."""
    kernels = _kernels(s)
    out, grid, columns = _statistics(s, 3)
    given = (s, labels.contiguous(), out, s.stride(0), *columns, scale)
    if out.numel():
        kernels.label_statistics[grid](*given, BLOCK=_BLOCK, num_warps=_WARPS)
    return out


def merge_labels(statistics: Tensor) -> Rows:
    """Whole rows from the statistics ``[3, c, parts of all ranks]`` of their parts."""
    top, weight, picked = statistics.double()
    peak, z, _ = _partition(top, weight)
    values = (peak - picked.sum(-1) + z.log()).float()
    return Rows(values, torch.zeros_like(values), torch.stack([peak, 1 / z]).float())


def label_gradient_(
    s: Tensor,
    labels: Tensor,
    rows: Rows,
    row_weight: Tensor,
    out: Tensor | None = None,
    scale: float = 1.0,
    add: bool = False,
) -> None:
    """Second half of :func:`cross_entropy_`."""
    out = s if out is None else out
    kernels, grid, blocks = _kernels(s, out), *_gradient(s, row_weight)
    tensors = (s, labels.contiguous(), out, rows.packed, row_weight * scale)
    given = (*tensors, s.stride(0), out.stride(0), *s.shape, blocks, scale, add)
    if s.numel():
        kernels.label_gradient[grid](*given, BLOCK=_GRADIENT_BLOCK, num_warps=_GRADIENT_WARPS)


def _partition(top: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum ``[c]`` and sum of exponentials ``[c]`` of whole rows; the parts' maxima less it."""
    peak = top.amax(-1, keepdim=True)
    a = top - peak
    return peak.squeeze(-1), (weight * a.exp()).sum(-1), a


def _statistics(s: Tensor, kinds: int) -> tuple[Tensor, tuple[int], tuple[int, int, int, int]]:
    """Room for a statistics kernel's output, its grid, and V', columns to a part, parts, values."""
    c, width = s.shape
    parts = min(max(_PROGRAMS // max(c, 1), 1), _MOST_PARTS)
    columns = -(-width // (parts * _BLOCK)) * _BLOCK
    out = torch.empty(kinds, c, parts, dtype=torch.float32, device=s.device)
    return out, (c * parts,), (width, columns, parts, c * parts)


def _gradient(s: Tensor, row_weight: Tensor) -> tuple[tuple[int], int]:
    """Grid of a gradient kernel, and blocks to a row."""
    if row_weight.shape != s.shape[:1] or row_weight.dtype != torch.float32:
        raise ValueError(
            f"row weights {row_weight.dtype} {list(row_weight.shape)} do not fit rows "
            f"{list(s.shape)}: give one fp32 number for each row."
        )
    blocks = -(-s.shape[1] // _GRADIENT_BLOCK)
    return (s.shape[0] * blocks,), blocks


def _kernels(*logits: Tensor) -> Any:
    """The kernels, if they can be used on these tensors."""
    first = logits[0]
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch, for tests
    if not (interpreted or (available() and all(x.is_cuda for x in logits))):
        raise RuntimeError(
            f"logits on {first.device} cannot go through Triton kernels, which need Triton and an "
            "NVIDIA GPU: use the losses of fused_rows.py."
        )
    for x in logits:
        rows = x.dim() == 2 and x.shape == first.shape and (x.shape[1] < 2 or x.stride(1) == 1)
        if not rows or x.dtype not in _TYPES:
            raise ValueError(
                f"{x.dtype} logits of shape {list(x.shape)} and strides {list(x.stride())} beside "
                f"{list(first.shape)}: give [rows, columns] of one shape, columns contiguous, of "
                "at most 32 bits."
            )
    return importlib.import_module("glmkd_nemo.distill.fused_triton_kernels")
