"""Who may attend to whom: the length of the context, or any mask that a user gives."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from glmkd_nemo.models import flex

LONG, ROWS = 512, 256  # on a CPU; below, or in smaller pieces, calls cost more than is saved


def prefix_mask(attention_mask: Tensor, seq_length: int) -> Tensor:
    """Boolean mask, ``True`` where a position (row) may attend to a position (column).

    Args:
        attention_mask: ``[b]`` integers ``sep`` (length of the context seen by all), or a mask of
            shape ``[b, s, s]`` or ``[b, 1, s, s]`` in which non-zero means "may attend".
        seq_length: ``s``.

    Returns:
        ``[b, 1, s, s]`` booleans.

    Raises:
        ValueError: a shape that is none of these.
    """
    if attention_mask.dim() == 1:
        return _prefix(attention_mask, range(seq_length), seq_length)
    square = attention_mask.shape[-2:] == (seq_length, seq_length)
    if attention_mask.dim() not in (3, 4) or not square:
        raise ValueError(
            f"attention_mask of shape {tuple(attention_mask.shape)}: give [b] (sep), [b, s, s] or "
            f"[b, 1, s, s] with s = {seq_length}."
        )
    mask = attention_mask.bool()
    return mask if mask.dim() == 4 else mask.unsqueeze(1)


def _prefix(sep: Tensor, rows: range, columns: int) -> Tensor:
    column = torch.arange(columns, device=sep.device)
    row = torch.arange(rows.start, rows.stop, device=sep.device)
    context = column < sep[:, None, None]
    return ((row[:, None] >= column) | context).unsqueeze(1)


class Block(NamedTuple):
    """Rows ``start`` to ``end`` that attend to the first ``keys`` positions, and to no other one.

    ``bias`` is ``[b or 1, 1, end - start, keys]``, 0 or minus infinity; ``None``: all are seen.
    """

    start: int
    end: int
    keys: int
    bias: Tensor | None


class AttentionMask:
    """The mask of one forward pass, in the form in which layers hand it on.

    It knows lengths only. What a layer asks for beyond that is made then, once for all layers.

    Args:
        mask: as :func:`prefix_mask` takes it; with ``cached``, also ``[b, 1, s, k]`` booleans,
            ``k`` the positions in the key-value cache, these included.
        length: ``s``.
        cached: whether keys of earlier passes are attended to.

    Attributes:
        sep: ``[b]``, or ``None`` where a whole mask is given.
        length: ``s``.
    """

    def __init__(self, mask: Tensor, length: int, cached: bool = False) -> None:
        self.sep = mask if mask.dim() == 1 else None
        self.length = length
        self._whole: Tensor | None = None
        if self.sep is None:
            self._whole = mask if cached else prefix_mask(mask, length)
        self._hidden: Tensor | None = None
        self._tiles: BlockMask | None = None
        self._blocks: dict[tuple[torch.dtype, bool], list[Block]] = {}

    def hidden(self) -> Tensor:
        """``[b or 1, 1, s, k]`` booleans, ``True`` where a row may not attend to a column."""
        if self._hidden is None:
            self._hidden = ~self._seen(range(self.length), self.length)
        return self._hidden

    def sees_next(self) -> Tensor:
        """``[b, s]`` booleans: whether a position may attend to the one after it."""
        if self.sep is None:
            assert self._whole is not None
            return F.pad(self._whole[:, 0].diagonal(1, -2, -1), (0, 1))
        position = torch.arange(1, self.length + 1, device=self.sep.device)
        return position < self.sep.clamp(max=self.length)[:, None]

    def blocks(self, dtype: torch.dtype, at_once: bool = False) -> list[Block]:
        """Rows to be attended for together.

        Long sequences on a CPU are cut after the longest context and every 256 rows from there on:
        a block leaves out the keys that none of its rows sees. Elsewhere there is one block.

        Args:
            dtype: of the biases.
            at_once: one block in any case.
        """
        if (dtype, at_once) not in self._blocks:
            edges = [0, self.length]
            if self.sep is not None and not at_once and self._may_read() and self.length >= LONG:
                context = min(int(self.sep.max()), self.length)
                edges = sorted({0, context, *range(context, self.length, ROWS), self.length})
            self._blocks[dtype, at_once] = [
                Block(start, end, self._keys(end), self._bias(range(start, end), end, dtype))
                for start, end in pairwise(edges)
            ]
        return self._blocks[dtype, at_once]

    def tiles(self) -> BlockMask:
        """For FlexAttention; only where there is a ``sep``."""
        if self._tiles is None:
            assert self.sep is not None
            self._tiles = flex.tiles(self.sep, self.length)
        return self._tiles

    def _keys(self, end: int) -> int:
        return end if self._whole is None else self._whole.shape[-1]

    def _bias(self, rows: range, columns: int, dtype: torch.dtype) -> Tensor | None:
        seen = self._seen(rows, columns)
        if self._may_read() and bool(seen.all()):
            return None
        bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return bias.masked_fill_(~seen, float("-inf"))

    def _seen(self, rows: range, columns: int) -> Tensor:
        if self._whole is not None:
            return self._whole
        assert self.sep is not None
        alike = self._may_read() and bool((self.sep == self.sep[:1]).all())
        return _prefix(self.sep[:1] if alike else self.sep, rows, columns)

    def _may_read(self) -> bool:
        """Whether reading a value costs nothing: from a GPU it would wait for all work there."""
        mask = self.sep if self._whole is None else self._whole
        assert mask is not None
        return mask.device.type == "cpu"
