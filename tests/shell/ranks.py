"""Functions that tests/shell runs on several ranks; many cases per launch, as launches are slow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from glmkd_nemo.engine.trainer import build_trainer
from tests.shell import toy

TP2 = {"model__tensor_model_parallel_size": 2}
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": {},
    "tp2": TP2,
    "tp2_sp": {**TP2, "model__sequence_parallel": True},
    "pp2": {"model__pipeline_model_parallel_size": 2},
}
KEEP_ALL = {"exp_manager__checkpoint_callback_params__save_top_k": -1}
DROPOUT_FREE = {"model__hidden_dropout": 0.0, "model__attention_dropout": 0.0}


def killed(folder: str) -> None:
    """A run with dropout that SIGKILL ends in mid-step, after the checkpoint of step 3."""
    toy.ToyModelPT.kill_at = 4
    toy.run(folder)


def one_process(root: str) -> dict[str, Any]:
    """An uninterrupted run, the killed one resumed, and settings that need one step each."""
    base = Path(root)
    results = {
        "whole": toy.run(base / "whole"),
        "resumed": toy.run(base / "killed"),
        "no_dropout": toy.run(base / "no_dropout", **KEEP_ALL, **DROPOUT_FREE),
    }
    short = {"trainer__max_steps": 2, "exp_manager__create_checkpoint_callback": False}
    variants: dict[str, dict[str, Any]] = {
        "bf16": {"model__precision": "bf16"},
        "fp16": {"model__precision": 16},
        "adam": {"model__optim__name": "adam"},
        "recompute": {"model__activations_checkpoint_granularity": "full"},
        "plain": {},
    }
    for name, changes in variants.items():
        results[name] = toy.run(base / name, **short, **changes)
    return results


def two_processes(root: str) -> dict[str, Any]:
    """The archive of ``one_process`` at other layouts, and its run resumed at other layouts."""
    results: dict[str, Any] = {}
    base = Path(root)
    for name, changes in LAYOUTS.items():
        results[f"nemo_{name}"] = held_out(base / "no_dropout" / "toy.nemo", changes)
        folder = base / f"resumed_{name}"
        if dist.get_rank() == 0:
            copy_without_end(base / "no_dropout", folder)
        dist.barrier()
        results[f"resumed_{name}"] = toy.run(folder, **DROPOUT_FREE, **changes)
    toy.ToyModelPT.ask_at = 1
    results["asked"] = toy.run(
        base / "asked", trainer__log_every_n_steps=4, **DROPOUT_FREE, **LAYOUTS["dp2"]
    )
    toy.ToyModelPT.ask_at = None
    results["asked_again"] = toy.run(
        base / "asked", trainer__log_every_n_steps=4, **DROPOUT_FREE, **LAYOUTS["dp2"]
    )
    return results


def held_out(archive: Path, changes: dict[str, Any]) -> dict[str, float]:
    """Restores an archive at the layout of ``changes`` and validates it."""
    parallel_state.destroy_model_parallel()
    cfg = toy.config("unused", trainer__devices=dist.get_world_size(), **changes)
    trainer = build_trainer(cfg)
    model = toy.ToyModelPT.restore_from(str(archive), trainer=trainer)
    trainer.validate(model, verbose=False)
    return dict(toy.ToyModelPT.held_out)


def copy_without_end(source: Path, target: Path) -> None:
    """Copies a finished run's checkpoints up to step 3, as if it had been killed after that."""
    checkpoints = target / "checkpoints"
    checkpoints.mkdir(parents=True)
    for path in (source / "checkpoints").iterdir():
        if "step=3" in path.name:
            shutil.copytree(path, checkpoints / path.name)
