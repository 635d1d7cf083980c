"""The prediction head as a handle: logits are made when asked for, and only the rows asked for.

A head has one row of weights per token, or per *kept* token where the model has a vocabulary map
(``vocab_map.py``). The handle then gives either of two views, and a third of a teacher's head:

- *mapped*: ``V`` columns, a token that is not kept having the row of the one that stands for it;
- *kept*: ``n`` columns, in the order of the map's ``kept_ids``;
- :func:`comparable`: a teacher's columns at the student's tokens, sharded as the student's.
"""

from __future__ import annotations

import copy
from functools import cached_property

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor

from glmkd_nemo.distill.column_products import column_products
from glmkd_nemo.distill.main_grad import main_grad
from glmkd_nemo.distill.parallel import shared, whole_rows
from glmkd_nemo.distill.positions import Positions, positions
from glmkd_nemo.models.vocab_map import VocabMap


class Logits:
    """Final hidden states and head weight; their product is what others call logits.

    Columns that only pad the vocabulary are left out of the product, so no softmax or loss can
    ever see them. Products are kept per set of rows: several loss terms share one.

    Args:
        hidden: ``[s, b, h]``, or this rank's slice of ``s`` under sequence parallelism.
        weight: ``[rows_padded / TP, h]``, this rank's rows of the (tied) head.
        vocab_size: real number of rows over all ranks, padding excluded.
        sequence_parallel: whether ``hidden`` is a slice.
        vocab_map: whose kept tokens the rows are; ``None`` for a row per token.

    Attributes:
        vocab_size: number of columns over all ranks.
        columns: the ones of this rank.
        width: most columns that a rank has, padding included.
        tokens: token id of every column; ``None`` where column ``i`` is token ``i``.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        vocab_size: int,
        sequence_parallel: bool,
        vocab_map: VocabMap | None = None,
    ) -> None:
        self._states = _States(hidden, sequence_parallel)
        self._weight, self._map = weight, vocab_map
        self._own_size = (vocab_size, weight.shape[0])
        # A view refers to what it was made of, or the other way round, never both: a cycle would
        # keep activations alive after the step. Ids are kept, so that their id() stays theirs.
        self._stored: Logits | None = None
        self._views: dict[tuple[int | None, int], tuple[Tensor | None, Logits]] = {}
        self._see(None, None if vocab_map is None else vocab_map.kept_ids, self._own_size)

    def _see(self, rows: Tensor | None, tokens: Tensor | None, size: tuple[int, int]) -> None:
        """Makes the columns those of the head's ``rows`` (``None``: all of them, as stored)."""
        self._picked, self.tokens, (self.vocab_size, self.width) = rows, tokens, size
        start = parallel_state.get_tensor_model_parallel_rank() * self.width
        end = min(start + self.width, self.vocab_size)
        self.columns = range(min(start, self.vocab_size), end)
        self._rows: dict[int, tuple[Tensor | Positions, Tensor]] = {}
        self._products: dict[int, tuple[Tensor, Tensor]] = {}

    def samples(self, start: int, stop: int) -> Logits:
        """The handle of samples ``start`` to ``stop`` (excluded) of the batch."""
        part = copy.copy(self)
        part._states = self._states.samples(start, stop)
        part._rows, part._views = {}, {}
        part._stored = None if self._stored is None else self._stored.samples(start, stop)
        return part

    def mapped(self, width: int) -> Logits:
        """The view with a column per token of the whole vocabulary, ``width`` to a rank."""
        view = self._view(None, width)
        view._stored = self
        return view

    def kept(self) -> Logits:
        """The view with the kept tokens' columns only.

        Raises:
            ValueError: the model has no vocabulary map.
        """
        if self._map is None:
            raise ValueError(
                "mask_map compares kept tokens only, but the student has no vocabulary map: set "
                "model.vocab_map.size, or mask_map=false."
            )
        view = self if self._picked is None else self._stored
        assert view is not None, "a view of chosen tokens does not know all kept ones"
        return view

    def at(self, ids: Tensor | None, width: int) -> Logits:
        """The view with one column for each of ``ids`` (``None``: of the whole vocabulary).

        Args:
            ids: ``[m]`` token ids, the same on all ranks. Give the same tensor to share products.
            width: columns to a rank, so that two heads can be sharded alike.
        """
        key = (None if ids is None else id(ids), width)
        if key not in self._views:
            self._views[key] = (ids, self._view(ids, width))
        return self._views[key][1]

    def _view(self, ids: Tensor | None, width: int) -> Logits:
        view = copy.copy(self)
        view.__dict__.pop("head", None)
        view._stored, view._views = None, {}
        rows = self._rows_of(ids)
        view._see(rows, ids, (len(rows), width))
        return view

    def _rows_of(self, ids: Tensor | None) -> Tensor:
        if ids is None:
            size = self._own_size[0] if self._map is None else len(self._map.row_of_id)
            ids = torch.arange(size, device=self._weight.device)
        return ids if self._map is None else self._map.rows(ids)

    def columns_of(self, ids: Tensor) -> Tensor:
        """The column of each token id, any shape; of a token without one, that of its stand-in."""
        if self.tokens is None:
            return ids
        assert self._map is not None
        assert self.tokens is self._map.kept_ids
        return self._map.rows(ids)

    def rows_of(self, columns: Tensor) -> Tensor:
        """Row of the head behind each column, any shape: equal where tokens share a logit."""
        return columns if self._picked is None else self._picked[columns]

    @cached_property
    def head(self) -> Tensor:
        """``[V', h]``, the weights of this rank's columns."""
        if self._picked is None:
            return _first_rows(self._weight, len(self.columns))
        here = self._picked[self.columns.start : self.columns.stop]
        return F.embedding(here, whole_rows(self._weight))

    @property
    def shape(self) -> tuple[int, int]:
        """``(b, s)``."""
        return self._states.bsh.shape[0], self._states.bsh.shape[1]

    def all(self) -> Tensor:
        """``[b, s, V']``: logits of all positions, this rank's real columns."""
        return F.linear(self._states.bsh, self.head)

    def rows(self, mask: Tensor | Positions) -> Tensor:
        """Logits of the positions where ``mask`` holds.

        Args:
            mask: ``[b, s]``. Give the same object to share the product between terms.

        Returns:
            ``[n, V']``, ``n`` the number of true entries, in row-major order.
        """
        if id(mask) not in self._rows:
            product = F.linear(self.states(mask), self.head)
            self._rows[id(mask)] = (mask, product)  # the mask is kept, so its id stays its own
        return self._rows[id(mask)][1]

    def has_rows(self, mask: Tensor | Positions) -> bool:
        """Whether :meth:`rows` of this mask are multiplied out already."""
        return id(mask) in self._rows

    @property
    def has_gradient(self) -> bool:
        """Whether a loss on these logits would have a gradient."""
        return self._states.bsh.requires_grad or self._weight.requires_grad

    def states(self, mask: Tensor | Positions) -> Tensor:
        """The head's input where ``mask`` holds, ``[n, h]``, equal on all tensor-parallel ranks;
        its gradient is summed over them."""
        return positions(mask).of(self._states.bsh)

    def project(self, hidden: Tensor) -> Tensor:
        """Other hidden states times the same head: ``[b, s, h] -> [b, s, V']``.

        Args:
            hidden: equal on all tensor-parallel ranks; its gradient is summed over them.
        """
        return F.linear(shared(hidden), self.head)

    def column_products(self, other: Logits) -> Tensor:
        """Of this head's weights with those of ``other``, in fp64 ``[h, h']``: see
        :func:`~glmkd_nemo.distill.column_products.column_products`. Terms share them."""
        mine, its = self.head, other.head
        if id(its) not in self._products:
            self._products[id(its)] = (its, column_products(mine, its))
        return self._products[id(its)][1]


def _first_rows(weight: Tensor, n: int) -> Tensor:
    if n == len(weight):  # a slice, even of all, costs a zeroed gradient of its own
        return weight
    rows, total = weight[:n], main_grad(weight)
    if total is not None:
        rows.main_grad = total[:n]  # type: ignore[attr-defined]  # Megatron-Core's name
    return rows


class _States:
    """The head's input, gathered when first asked for."""

    def __init__(self, hidden: Tensor, sequence_parallel: bool) -> None:
        self._hidden, self._sequence_parallel = hidden, sequence_parallel

    def samples(self, start: int, stop: int) -> _States:
        """Those of some samples only."""
        return _States(self._hidden[:, start:stop], self._sequence_parallel)

    @cached_property
    def bsh(self) -> Tensor:
        """``[b, s, h]``; its gradient is summed over the ranks, each of which has some columns."""
        if self._sequence_parallel:
            h = tensor_parallel.gather_from_sequence_parallel_region(
                self._hidden, tensor_parallel_output_grad=True
            )
        else:
            h = shared(self._hidden)
        return h.transpose(0, 1)


def comparable(student: Logits, teacher: Logits, kept_only: bool = False) -> tuple[Logits, Logits]:
    """Two heads with the same columns, sharded alike.

    Args:
        student, teacher: as they are; either may have a vocabulary map, a mapped output or not.
        kept_only: compare the tokens that the student keeps only (GLMKD's ``mask_map``); that is
            so anyway where its output is not mapped.

    Raises:
        ValueError: ``kept_only`` for a student without a vocabulary map.
    """
    if kept_only:
        student = student.kept()
    alike = student.width == teacher.width and teacher.tokens is None
    if student.tokens is None and alike:
        return student, teacher
    return student, teacher.at(student.tokens, student.width)
