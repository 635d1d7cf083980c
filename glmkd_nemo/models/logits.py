"""The prediction head as a handle: logits are made when asked for, and only the rows asked for."""

from __future__ import annotations

import copy
from functools import cached_property

import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor

from glmkd_nemo.distill.parallel import shared


class Logits:
    """Final hidden states and head weight; their product is what others call logits.

    Columns that only pad the vocabulary are left out of the product, so no softmax or loss can
    ever see them. Products are kept per set of rows: several loss terms share one.

    Args:
        hidden: ``[s, b, h]``, or this rank's slice of ``s`` under sequence parallelism.
        weight: ``[V_padded / TP, h]``, this rank's rows of the (tied) head.
        vocab_size: real vocabulary size, padding excluded.
        sequence_parallel: whether ``hidden`` is a slice.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, vocab_size: int, sequence_parallel: bool
    ) -> None:
        self._hidden = hidden
        self._weight = weight
        self._sequence_parallel = sequence_parallel
        self.vocab_size = vocab_size
        per_rank = weight.shape[0]
        start = parallel_state.get_tensor_model_parallel_rank() * per_rank
        self.columns = range(min(start, vocab_size), min(start + per_rank, vocab_size))
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}

    def samples(self, start: int, stop: int) -> Logits:
        """The handle of samples ``start`` to ``stop`` (excluded) of the batch."""
        part = copy.copy(self)
        part._hidden = self._hidden[:, start:stop]
        part._rows = {}
        part.__dict__.pop("_input", None)  # cached for the whole batch
        return part

    @cached_property
    def _input(self) -> Tensor:
        """``[b, s, h]``; its gradient is summed over the ranks, each of which has some columns."""
        if self._sequence_parallel:
            h = tensor_parallel.gather_from_sequence_parallel_region(
                self._hidden, tensor_parallel_output_grad=True
            )
        else:
            h = shared(self._hidden)
        return h.transpose(0, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """``(b, s)``."""
        return self._input.shape[0], self._input.shape[1]

    def all(self) -> Tensor:
        """``[b, s, V']``: logits of all positions, this rank's real columns."""
        return F.linear(self._input, self._weight[: len(self.columns)])

    def rows(self, mask: Tensor) -> Tensor:
        """Logits of the positions where ``mask`` holds.

        Args:
            mask: ``[b, s]`` booleans. Give the same tensor to share the product between terms.

        Returns:
            ``[n, V']``, ``n`` the number of true entries, in row-major order.
        """
        if id(mask) not in self._rows:
            product = F.linear(self._input[mask], self._weight[: len(self.columns)])
            self._rows[id(mask)] = (mask, product)  # the mask is kept, so its id stays its own
        return self._rows[id(mask)][1]
