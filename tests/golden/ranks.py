"""Replays recorded cases on the ranks of tests/golden; several settings per launch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.compare import TOLERANCE, Error, errors
from glmkd_nemo.replay.run import run_case

# What a case's worst errors are called: (kind, name of the quantity, relative error)
Row = tuple[str, str, float]


def replay(jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[Row]]]:
    """Runs ``jobs[name] = {cases, tp, pp, sp, recompute}`` and returns errors by job and case."""
    return {name: _job(**job) for name, job in jobs.items()}


def _job(
    cases: list[str], tp: int = 1, pp: int = 1, sp: bool = False, recompute: str | None = None
) -> dict[str, list[Row]]:
    parallel_state.initialize_model_parallel(tp, pp)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    try:
        return {folder: _rows(Case(Path(folder)), sp, recompute) for folder in cases}
    finally:
        parallel_state.destroy_model_parallel()


def _rows(case: Case, sp: bool, recompute: str | None) -> list[Row]:
    found = errors(case, run_case(case, sp, recompute=recompute))
    if _rank_zero_says(max(e.value for e in found) > TOLERANCE):
        # badly conditioned in fp32 (near-tied top-n): then the float64 run counts
        found = errors(case, run_case(case, sp, torch.float64, recompute))
    return [_row(e) for e in found]


def _row(error: Error) -> Row:
    return error.kind, error.name, error.value


def _rank_zero_says(answer: bool) -> bool:
    """Rank 0's answer on all ranks, which must take the same branch."""
    box = [answer]
    dist.broadcast_object_list(box, src=0)
    return box[0]
