"""Functions that tests/engine/test_evaluate.py runs on ranks, many cases per launch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist
from hydra import compose, initialize_config_dir
from megatron.core import parallel_state
from omegaconf import DictConfig

from glmkd_nemo.config.run import CONF
from glmkd_nemo.engine import train
from glmkd_nemo.engine.evaluate import METRICS, evaluate
from glmkd_nemo.engine.trainer import build_trainer
from glmkd_nemo.models.modelpt import GLMModelPT

SIZES = {
    "num_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "make_vocab_size_divisible_by": 8,
    "init_method_std": 0.5,
}
TASKS: dict[str, list[str]] = {
    "lambada": ["task.test_file=lambada.jsonl", "task.seq_length=24"],
    "wikitext": ["task.test_file=wiki.txt", "task.seq_length=12", "task.stride=5"],
    "gigaword": ["task.max_src_length=16", "task.max_tgt_length=8", "task.num_beams=3"],
    "blank_filling": ["task.max_src_length=16", "task.max_tgt_length=5", "task.mask_ratio=0.4"],
}
TP2 = "model.tensor_model_parallel_size=2"
LAYOUTS: dict[str, tuple[list[str], list[str]]] = {  # overrides, and the tasks that are tried
    "dp2": ([], ["lambada", "gigaword"]),
    "tp2": ([TP2], ["gigaword", "blank_filling"]),
    "tp2_sp": ([TP2, "model.sequence_parallel=true"], ["wikitext"]),
    "pp2": (["model.pipeline_model_parallel_size=2", "generate=false"], ["gigaword"]),
}


def config(root: Path, task: str, name: str, *overrides: str) -> DictConfig:
    """The shipped configuration for a run in the folder `name`."""
    given = [
        f"task={task}",
        f"task.data_dir={root}",
        f"restore_from_path={root / 'tiny.nemo'}",
        f"exp_manager.explicit_log_dir={root / name / task}",
        f"trainer.devices={dist.get_world_size()}",
        "model.eval_batch_size=2",
        *TASKS[task],
        *overrides,
    ]
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("evaluate", [f"++{o}" if "." in o or "/" in o else o for o in given])


def run(root: Path, task: str, name: str, *overrides: str) -> dict[str, float]:
    """Metrics of an evaluation at a fresh layout."""
    parallel_state.destroy_model_parallel()
    assert evaluate(config(root, task, name, *overrides)) == 0
    found: dict[str, Any] = json.loads((root / name / task / METRICS).read_text())
    return dict(found["metrics"])


def save(root: Path) -> None:
    """A model with random weights and the tokenizer of a vocabulary in `root`."""
    sizes = [f"model.{name}={value}" for name, value in SIZES.items()]
    tokenizer = f"model.tokenizer.path={root / 'vocab.txt'}"
    steps = ["trainer.max_steps=1", "trainer.val_check_interval=1"]
    cfg = config(root, "lambada", "saved", tokenizer, *steps, *sizes)
    trainer = build_trainer(cfg)
    train.join(trainer)
    model = GLMModelPT(cfg.model, trainer)
    model.configure_model()
    model.save_to(str(root / "tiny.nemo"))


def one_process(root: str) -> dict[str, Any]:
    """Saves the model; metrics of every task."""
    save(Path(root))
    return {task: run(Path(root), task, "one") for task in TASKS}


def two_processes(root: str) -> dict[str, Any]:
    """Metrics by layout and task."""
    return {
        layout: {task: run(Path(root), task, layout, *overrides) for task in tasks}
        for layout, (overrides, tasks) in LAYOUTS.items()
    }
