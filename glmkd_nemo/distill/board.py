"""Values of loss parts during a step, and their collection from all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.engine.parts import summed


class Board:
    """Adds up scalars by name over the micro-batches of a step, without waiting for the device.

    Args:
        parts: names of this step's parts, alike and in the same order on all ranks.
        extras: names of further losses.
    """

    def __init__(self, parts: Sequence[str], extras: Sequence[str]) -> None:
        self.names = [*parts, *extras, "loss"]
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Adds a scalar."""
        assert name in self.names, f"{name} was not announced"
        now = value.detach().to(torch.double, copy=True)  # mcore divides the loss in place
        self._sums[name] = now + self._sums[name] if name in self._sums else now

    def collect(self, num_microbatches: int) -> dict[str, Tensor]:
        """Means over micro-batches and data-parallel ranks, summed over stages.

        All ranks call it. One reduction, and one copy to the host, which waits for the device.

        Returns:
            ``{name: scalar}`` in the host's memory in fp64, equal on all ranks.
        """
        zero = torch.zeros((), dtype=torch.double, device=torch.cuda.current_device())
        values = summed(torch.stack([self._sums.get(name, zero) for name in self.names]))
        values /= num_microbatches * parallel_state.get_data_parallel_world_size()
        return dict(zip(self.names, values.cpu(), strict=True))
