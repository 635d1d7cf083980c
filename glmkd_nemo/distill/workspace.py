"""Memory of the fused head's chunks, kept from step to step."""

from __future__ import annotations

import torch
from torch import Tensor

from glmkd_nemo.distill.chunks import Buffers

VECTOR = 8  # a CPU multiplies a whole number of vector registers
_FEWEST, _MOST = 176, 1024  # rows: products of fewer are slow, of more hardly faster, on a CPU
_BYTES = 64 * 2**20  # of all buffers between these, there
_SHARE = 0.18  # of the rows, on a GPU: a large matrix product fills it


def rows_on_gpu(rows: int) -> int:
    """Rows of fp32 logits that chunk buffers take on a GPU, for a loss on so many rows."""
    return max(_FEWEST, int(_SHARE * rows))


class Workspace:
    """Chunk buffers that live from step to step: fresh memory costs a fault per page.

    Args:
        rows: rows of fp32 logits that all buffers together may hold; ``None``: as fits the device,
            64 MB of them (176 to 1,024) on a CPU, 0.18 of those of the loss elsewhere.
    """

    def __init__(self, rows: int | None = None) -> None:
        self._rows = rows
        self._buffers: dict[tuple[torch.dtype, torch.device], Buffers] = {}
        self._free: list[Tensor] = []

    def rows(self, n: int, head: Tensor) -> int:
        """How many rows of logits the buffers may hold, for ``n`` of a head ``[V', h]``."""
        if self._rows is not None:
            return self._rows
        if not head.is_cpu:
            return rows_on_gpu(n)
        return min(max(_FEWEST, _BYTES // max(1, 4 * len(head))), _MOST)

    def take(self, name: str, rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """``[rows, columns]``, uninitialised; the same memory for the same ``name``."""
        key = dtype, like.device
        if key not in self._buffers:
            self._buffers[key] = Buffers(like.new_empty(0), dtype)
        return self._buffers[key].get(name, rows, columns)

    def borrow(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of the shape of ``like``, uninitialised, until :meth:`give_back`."""
        for k, kept in enumerate(self._free):
            if (kept.shape, kept.dtype, kept.device) == (like.shape, dtype, like.device):
                return self._free.pop(k)
        return torch.empty_like(like, dtype=dtype)

    def give_back(self, borrowed: Tensor) -> None:
        """To be borrowed again; nobody may hold it any more."""
        self._free.append(borrowed)
