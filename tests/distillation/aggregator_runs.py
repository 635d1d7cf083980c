"""Distillation from several teachers, stopped and resumed; run on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from glmkd_nemo.engine.train import train
from tests.distillation.runs import (
    DROPOUT_FREE,
    _copy_without_end,
    config,
    distil,
    write_text,
)

TERMS = {"soft": {"method": "kd", "temperature": 2.0}, "hard": {"method": "hard"}}
RL_KD = {"terms": TERMS, "aggregator": {"name": "rl_kd", "semantic_teacher": 0}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": {},
    "pp2": {"model__pipeline_model_parallel_size": 2},
    "tp2": {"model__tensor_model_parallel_size": 2},
}


def rl_kd(root: str) -> dict[str, Any]:
    """By layout: an uninterrupted run of six steps and one resumed after three; and the run with
    data parallelism resumed with tensor parallelism."""
    base = Path(root)
    if dist.get_rank() == 0:
        write_text(base)
    dist.barrier()
    sizes = {"t0": {}, "t1": {"model__num_layers": 3, "model__hidden_size": 16}}
    short = {"trainer__devices": 2, "trainer__max_steps": 2}
    for name, size in sizes.items():
        parallel_state.destroy_model_parallel()
        train(config(base, base / name, **short, **size))
    archives = {name: {"restore_from_path": str(base / name / "tiny.nemo")} for name in sizes}
    fixed = {"model__teachers": archives, "model__distill": RL_KD, **DROPOUT_FREE}
    found = {}
    for name, changes in LAYOUTS.items():
        whole = distil(base, base / name, **fixed, **changes)
        found[name] = {"whole": whole, "resumed": _resumed(base, name, fixed | changes)}
    found["moved"] = _resumed(base, "dp2", fixed | LAYOUTS["tp2"], "moved")
    return found


def _resumed(base: Path, name: str, settings: dict[str, Any], to: str = "resumed") -> Any:
    folder = base / f"{name}_{to}"
    if dist.get_rank() == 0:
        _copy_without_end(base / name, folder)
    dist.barrier()
    return distil(base, folder, **settings)
