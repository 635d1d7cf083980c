"""Named loss parts from the last pipeline stage to every rank."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor


class PartsBoard:
    """Averages loss parts over micro-batches and data-parallel ranks; all ranks get them.

    Only the last pipeline stage computes losses, while the first one logs. The names travel once,
    and again when they change; the values in one broadcast per step.
    """

    def __init__(self) -> None:
        self._names: list[str] | None = None

    def share(self, losses: list[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
        """Shares the parts of a step.

        Args:
            losses: per micro-batch ``{name: scalar}`` on the last stage, empty on the others.
            device: where communication happens.

        Returns:
            ``{name: scalar}`` in fp32, equal on all ranks of a model-parallel group and over DP.
        """
        mean: dict[str, Tensor] = {}
        if losses:
            for name in sorted({name for row in losses for name in row}):
                values = [row[name].detach().float() for row in losses if name in row]
                mean[name] = torch.stack(values).mean()
        stages = parallel_state.get_pipeline_model_parallel_world_size() > 1
        names = self._share_names(list(mean), device) if stages else list(mean)
        if not names:
            return {}
        if mean:
            values_n = torch.stack([mean[name].to(device) for name in names])
        else:
            values_n = torch.zeros(len(names), device=device)
        if stages:
            torch.distributed.broadcast(values_n, **_from_last_stage())
        replicas = parallel_state.get_data_parallel_world_size()
        if replicas > 1:
            group = parallel_state.get_data_parallel_group()
            torch.distributed.all_reduce(values_n, group=group)
            values_n /= replicas
        return dict(zip(names, values_n, strict=True))

    def _share_names(self, names: list[str], device: torch.device) -> list[str]:
        last = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        changed = torch.tensor([int(last and names != self._names)], device=device)
        torch.distributed.broadcast(changed, **_from_last_stage())
        if int(changed):
            box = [names]
            torch.distributed.broadcast_object_list(box, **_from_last_stage())
            self._names = box[0]
        return self._names or []


def _from_last_stage() -> dict[str, Any]:
    return {
        "src": parallel_state.get_pipeline_model_parallel_last_rank(),
        "group": parallel_state.get_pipeline_model_parallel_group(),
    }
