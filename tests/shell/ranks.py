"""Functions that tests/shell runs on several ranks."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def train(**changes: Any) -> dict[str, Any]:
    """Trains the toy model on all ranks; returns losses and the last validation."""
    from tests.shell import toy

    result = toy.fit(toy.config(trainer__devices=dist.get_world_size(), **changes))
    return {k: v for k, v in result.items() if k not in ("model", "trainer")}
