"""What the kit runs on several ranks: every method in every layout of as many processes."""

from __future__ import annotations

import traceback
from typing import Any

import torch.distributed as dist

from tests.distill.kit import Bench, setting
from tests.distill.ranks import layout

# layout -> processes, groups, sequence parallelism
LAYOUTS: dict[str, tuple[int, dict[str, int], bool]] = {
    "tp2": (2, {"tp": 2}, False),
    "tp2_sp": (2, {"tp": 2}, True),
    "pp2": (2, {"pp": 2}, False),
    "dp2": (2, {}, False),
    "tp2_pp2": (4, {"tp": 2, "pp": 2}, False),
}
BOTH = [[0, 1], [2, 3]]


def samples(name: str) -> list[list[int]]:
    """Micro-batches of one process."""
    return [BOTH[0] + BOTH[1]] if setting(name).dp_batch else BOTH


def run(names: list[str], layouts: list[str]) -> dict[str, dict[str, Any]]:
    """By layout and method: values and gradients, or what went wrong."""
    found: dict[str, dict[str, Any]] = {}
    for key in layouts:
        _, groups, sp = LAYOUTS[key]
        with layout(**groups):
            found[key] = {name: _one(name, sp, alone=bool(groups)) for name in names}
    return found


def _one(name: str, sp: bool, alone: bool) -> Any:
    try:
        bench = Bench(name, sp=sp)
        mine = samples(name) if alone else [BOTH[dist.get_rank()]]
        return bench.run(mine)
    except Exception:  # noqa: BLE001  (told by the test of this method and layout)
        return traceback.format_exc()
