"""FlexAttention (arXiv 2412.05496) with the prefix mask as lengths: CUDA only.

Which tiles of the attention matrix are seen wholly, in part or not at all follows from the lengths,
so that no ``[s, s]`` mask is ever made, and nothing is read back from the GPU.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

TILE = 128  # rows and columns of a tile
HEADS = (16, 32, 64, 128, 256)  # elements of a head
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def fits(query: Tensor, key: Tensor, dropout: float) -> bool:
    """Whether the kernel is used.

    It knows no dropout and needs Triton. Lengths are whole tiles, as every other one would be
    compiled anew. ``TORCH_COMPILE_DISABLE=1`` (PyTorch's switch) turns it off.

    Args:
        query, key: ``[b, n, s, d]``.
        dropout: probability.
    """
    if not query.is_cuda or dropout > 0.0 or query.dtype not in DTYPES:
        return False
    s, d = query.shape[-2:]
    plain = d in HEADS and s % TILE == 0 and key.shape == query.shape
    return plain and _triton() and not torch._dynamo.config.disable


def tiles(sep: Tensor, length: int) -> BlockMask:
    """The prefix mask by tiles.

    Args:
        sep: ``[b]``, length of the context.
        length: ``s``, a multiple of 128.

    Returns:
        For all heads alike.
    """
    assert length % TILE == 0
    start = torch.arange(0, length, TILE, device=sep.device)
    context = sep[:, None, None]
    # row tiles down, column tiles across: in a tile the last row sees most, the first one least
    some = (start < context) | (start[:, None] >= start)
    every = (start + TILE <= context) | (start[:, None] > start)

    def visible(b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (column < sep[b]) | (row >= column)

    return BlockMask.from_kv_blocks(
        *_listed(some & ~every), *_listed(every), BLOCK_SIZE=TILE, mask_mod=visible
    )


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Number ``[b, 1, rows]`` and indices ``[b, 1, rows, columns]``, a row's chosen tiles first."""
    order = chosen.int().argsort(stable=True, dim=-1, descending=True)
    return chosen.sum(-1, dtype=torch.int32).unsqueeze(1), order.int().unsqueeze(1)


@functools.cache
def compiled() -> Callable[..., Tensor]:
    """The kernel, made at its first use; uncompiled FlexAttention multiplies all scores out."""
    return torch.compile(flex_attention)


@functools.cache
def _triton() -> bool:
    return importlib.util.find_spec("triton") is not None
