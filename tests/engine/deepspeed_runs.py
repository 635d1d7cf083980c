"""Whole runs with DeepSpeed: the same command, checkpoints, resume and ``.nemo`` as ever."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from glmkd_nemo.engine.train import train
from tests.distillation.runs import DROPOUT_FREE, config, distil, write_text

TP2 = {"model__tensor_model_parallel_size": 2}
ZERO1 = {"engine": {"name": "deepspeed", "zero_stage": 1}}
DIVIDED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}  # small weights too
ZERO3 = {"engine": {"name": "deepspeed", "zero_stage": 3, "config": DIVIDED}}


def runs(root: str) -> dict[str, Any]:
    """Distillations of six steps on two ranks, those of ZeRO resumed after step 3 too."""
    base = Path(root)
    _make_teacher(base)
    cases: dict[str, dict[str, Any]] = {
        "dp2 megatron": {},
        "dp2 zero3": ZERO3,
        "tp2 megatron": TP2,
        "tp2 zero1": {**TP2, **ZERO1},
    }
    found: dict[str, Any] = {}
    for name, changes in cases.items():
        found[name] = distil(base, base / name, **DROPOUT_FREE, **changes)["parts"]
    for name in ("dp2 zero3", "tp2 zero1"):
        again = base / f"{name} resumed"
        if dist.get_rank() == 0:
            _copy_without_end(base / name, again)
        dist.barrier()
        found[f"{name} resumed"] = distil(base, again, **DROPOUT_FREE, **cases[name])["parts"]
        found[f"{name} archive"] = _from_archive(base, name)
    found["refusals"] = _refusals(base)
    return found


def _make_teacher(base: Path) -> None:
    if dist.get_rank() == 0:
        write_text(base)
    dist.barrier()
    parallel_state.destroy_model_parallel()
    few = {"trainer__max_steps": 2, "exp_manager__create_checkpoint_callback": False}
    train(config(base, base / "t", trainer__devices=dist.get_world_size(), **few))


def _copy_without_end(source: Path, target: Path) -> None:
    (target / "checkpoints").mkdir(parents=True)
    for path in (source / "checkpoints").iterdir():
        if "step=3" in path.name:
            shutil.copytree(path, target / "checkpoints" / path.name)


def _from_archive(base: Path, name: str) -> dict[int, dict[str, float]]:
    """One step of the Megatron engine from the ``.nemo`` that a run left."""
    start = {"restore_from_path": str(base / name / "tiny.nemo"), "trainer__max_steps": 1}
    found: dict[int, dict[str, float]] = distil(
        base, base / f"{name} archive", **start, **DROPOUT_FREE
    )["parts"]
    return found


def _refusals(base: Path) -> dict[str, str]:
    """Messages for checkpoints that an engine cannot go on from."""
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "other_stage": ("dp2 zero3", ZERO1),
        "other_engine": ("dp2 zero3", {}),
        "of_megatron": ("dp2 megatron", ZERO3),
    }
    found = {}
    for name, (folder, changes) in cases.items():
        place = base / f"refused {name}"
        if dist.get_rank() == 0:
            _copy_without_end(base / folder, place)
        dist.barrier()
        try:
            distil(base, place, **DROPOUT_FREE, **changes)
        except ValueError as error:
            found[name] = str(error)
    return found
