"""What a rank remembers from one forward pass to the next, in checkpoints.

Unlike parameters and buffers it differs between data-parallel ranks, and may be of any shape.
"""

from __future__ import annotations

import logging
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

logger = logging.getLogger(__name__)


def _place() -> str:
    ranks = (
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_tensor_model_parallel_rank(),
        int(parallel_state.is_pipeline_last_stage(ignore_virtual=True)),
    )
    return ".".join(map(str, ranks))


def _sizes() -> list[int]:
    data = int(parallel_state.get_data_parallel_world_size())
    return [data, int(parallel_state.get_tensor_model_parallel_world_size())]


def collected(mine: Any) -> dict[str, Any]:
    """The memories of all ranks, on rank 0, which saves them; all ranks call it.

    Args:
        mine: this rank's, of plain containers and tensors; ``None`` where there is none.
    """
    first = dist.get_rank() == 0
    found: list[Any] = [None] * dist.get_world_size()
    dist.gather_object((_place(), mine), found if first else None, dst=0)
    by_place = {place: memory for place, memory in found if memory is not None} if first else {}
    return {"sizes": _sizes(), "memories": by_place}


def found_again(saved: dict[str, Any] | None) -> Any:
    """This rank's memory out of what :func:`collected` gave, if it was saved at this layout."""
    if not saved or not saved["memories"]:
        return None
    if saved["sizes"] != _sizes():
        if dist.get_rank() == 0:
            logger.warning(
                "the checkpoint is of %s data- and tensor-parallel ranks, not of %s: what the "
                "aggregator remembers of its last step is left out, once.",
                saved["sizes"],
                _sizes(),
            )
        return None
    return saved["memories"].get(_place())
