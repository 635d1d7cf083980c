"""Aggregators in every layout, on several ranks."""

from __future__ import annotations

import traceback
from typing import Any

import torch.distributed as dist

from tests.distill import ahead_ranks
from tests.distill.aggregator_cases import VARIANTS, bench
from tests.distill.kit_ranks import BOTH, LAYOUTS
from tests.distill.ranks import layout


def run(layouts: list[str]) -> dict[str, dict[str, Any]]:
    """By layout and variant: values and gradients of a step, or what went wrong; and which
    teachers took part on each rank."""
    found: dict[str, dict[str, Any]] = {}
    for key in layouts:
        _, groups, sp = LAYOUTS[key]
        with layout(**groups):
            mine = BOTH if groups else [BOTH[dist.get_rank()]]
            found[key] = {name: _one(name, sp, mine) for name in VARIANTS}
            if key == "tp2_pp2":
                found["ahead"] = ahead_ranks.everything({"several_mean": ["next_step"]})
                found["ahead"] |= ahead_ranks.everything({"tinybert": ["same_step"]}, sp=True)
    return found


def _one(name: str, sp: bool, mine: list[list[int]]) -> Any:
    try:
        with bench(VARIANTS[name], sp) as prepared:
            return prepared.run(mine)
    except Exception:  # noqa: BLE001  (told by the test of this variant and layout)
        return traceback.format_exc()
