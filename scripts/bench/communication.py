"""Finds communication at the one place where all of it goes through: the process group."""

from __future__ import annotations

import torch.distributed as dist

from scripts.bench.parts import Parts

_CALLS = (
    *("allreduce", "allgather", "_allgather_base", "allgather_into_tensor_coalesced"),
    *("reduce_scatter", "_reduce_scatter_base", "reduce_scatter_tensor_coalesced", "reduce"),
    *("broadcast", "alltoall", "alltoall_base", "barrier", "gather", "scatter"),
    *("send", "recv", "recv_anysource"),
)


def watch_groups(parts: Parts) -> None:
    """From now on starting communication, and waiting for it, counts as ``communication``."""
    from torch._C._distributed_c10d import Work

    for name in _CALLS:
        if hasattr(dist.ProcessGroup, name):
            call = parts.wrap("communication", getattr(dist.ProcessGroup, name))
            setattr(dist.ProcessGroup, name, call)
    Work.wait = parts.wrap("communication", Work.wait)  # type: ignore[method-assign]
