"""Functions that tests/engine runs on several ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist


def add_up(value: int) -> list[float]:
    """The sum over ranks of ``value + rank``, as the CPU engine sees it."""
    total = torch.tensor([float(value + dist.get_rank())], device="cuda")
    dist.all_reduce(total)
    return [float(total), float(torch.cuda.current_device() == torch.device("cpu"))]


def die_on_rank(rank: int) -> None:
    """One rank fails while the others wait for it."""
    if dist.get_rank() == rank:
        raise ValueError("this rank fails on purpose")
    dist.barrier()
