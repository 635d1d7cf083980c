"""What all ranks agree on without any of them waiting for its device."""

from __future__ import annotations

import torch
import torch.distributed as dist


class AnyRank:
    """Tells all ranks whether any of them has raised a flag, one call late.

    Each call starts a reduction on the processors (gloo), which runs beside the next step, and
    finishes that of the call before. All ranks build one and call it equally often.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if dist.get_world_size() > 1 else None
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def __call__(self, flag: bool) -> bool:
        """Whether a flag was raised in the call before, on any rank; one process knows at once."""
        if self._group is None:
            return flag
        found = self._finish()
        value = torch.tensor([int(flag or found)])
        work = dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._pending = work, value
        return found

    def close(self) -> None:
        """Finishes what runs; all ranks call it."""
        self._finish()
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _finish(self) -> bool:
        if self._pending is None:
            return False
        work, value = self._pending
        self._pending = None
        work.wait()
        return bool(value.item())
