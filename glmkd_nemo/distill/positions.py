"""Positions of a batch that a loss is taken of: a mask, and the list of its true entries."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Positions:
    """True entries of a mask in row-major order, found once for all that read them.

    Args:
        mask: ``[b, s]`` booleans.
        count: how many entries are true, if that is known on the host: without it, making the list
            waits for the device.
    """

    def __init__(self, mask: Tensor, count: int | None = None) -> None:
        self.mask, self._count = mask, count

    @property
    def shape(self) -> tuple[int, int]:
        """``(b, s)``."""
        return self.mask.shape[0], self.mask.shape[1]

    @cached_property
    def index(self) -> Tensor:
        """``[n]``, places in the flattened mask."""
        flat = self.mask.flatten()
        if self._count is None:
            return flat.nonzero()[:, 0]
        if self._count == len(flat):
            return torch.arange(len(flat), device=flat.device)
        # a stable sort keeps the order, and its size does not depend on what the device holds
        return flat.logical_not().byte().sort(stable=True).indices[: self._count]

    @cached_property
    def sample(self) -> Tensor:
        """``[n]``, the row of the batch that each entry is in."""
        return self.index // self.mask.shape[1]

    def of(self, x: Tensor) -> Tensor:
        """Entries of ``x``: ``[b, s, ...] -> [n, ...]``."""
        flat = x.flatten(0, 1)
        return flat if self._count == len(flat) else flat.index_select(0, self.index)

    def sum(self, rows: Tensor) -> Tensor:
        """Sums by sample: ``[n] -> [b]``."""
        return rows.new_zeros(self.mask.shape[0]).index_add(0, self.sample, rows)

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """``[b]``, entries of each sample."""
        return self.mask.sum(1).to(dtype)


def positions(mask: Tensor | Positions) -> Positions:
    """A mask ``[b, s]`` as :class:`Positions`."""
    return mask if isinstance(mask, Positions) else Positions(mask)
