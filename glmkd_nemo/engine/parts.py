"""Named loss parts of a step, from the ranks that computed them to all."""

from __future__ import annotations

import torch
from megatron.core import parallel_state
from torch import Tensor


def summed(values: Tensor) -> Tensor:
    """Sums over pipeline stages and data-parallel ranks, in place; all ranks call it and get it.

    It is one reduction over all ranks, to which one of each tensor-parallel group contributes.
    """
    if torch.distributed.get_world_size() > 1:
        if parallel_state.get_tensor_model_parallel_rank() > 0:
            values.zero_()
        torch.distributed.all_reduce(values)
    return values


class PartsBoard:
    """Averages loss parts over micro-batches and data-parallel ranks; all ranks get them.

    Only the last pipeline stage computes losses, while the first one logs. Their names travel once.
    """

    def __init__(self) -> None:
        self._names: list[str] | None = None

    def share(self, losses: list[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
        """Shares the parts of a step; waits for the device, once.

        Args:
            losses: per micro-batch ``{name: scalar}`` on the last stage, empty on the others.
            device: where communication happens.

        Returns:
            ``{name: scalar}`` in the host's memory in fp32, equal on all ranks.

        Raises:
            RuntimeError: (on the last stage) the names are not those of the steps before.
        """
        mean: dict[str, Tensor] = {}
        for name in sorted({name for row in losses for name in row}):
            values = [row[name].detach().double() for row in losses if name in row]
            mean[name] = torch.stack(values).mean()
        names = self._shared(list(mean))
        if not names:
            return {}
        zeros = torch.zeros(len(names), dtype=torch.double, device=device)
        values_n = torch.stack([mean[name].to(device) for name in names]) if mean else zeros
        values_n = summed(values_n) / parallel_state.get_data_parallel_world_size()
        return dict(zip(names, values_n.float().cpu(), strict=True))

    def _shared(self, names: list[str]) -> list[str]:
        if parallel_state.get_pipeline_model_parallel_world_size() == 1:
            return names
        if self._names is None:
            box = [names]
            torch.distributed.broadcast_object_list(
                box,
                src=parallel_state.get_pipeline_model_parallel_last_rank(),
                group=parallel_state.get_pipeline_model_parallel_group(),
            )
            self._names = box[0]
        if names and names != self._names:
            raise RuntimeError(f"forward_step gave the parts {names}, before {self._names}")
        return self._names
