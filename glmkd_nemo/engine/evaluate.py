"""Evaluation runs: a ``.nemo``, a task, a split -> ``metrics.json`` and files of predictions."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
from megatron.core import parallel_state
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from glmkd_nemo.checkpoint.archive import check_archive, read_nemo_config
from glmkd_nemo.checkpoint.nemo import check_writable
from glmkd_nemo.config.strict import nearest
from glmkd_nemo.engine import train
from glmkd_nemo.engine.trainer import build_trainer
from glmkd_nemo.tasks.task import SPLITS

METRICS = "metrics.json"
# what the run decides; all else is as the model was saved
_OF_THE_RUN = (
    "task",
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "sequence_parallel",
    "transformer_engine",
    "megatron_amp_O2",
    "precision",
    "seed",
)


def evaluate(cfg: DictConfig) -> int:
    """Evaluates as ``cfg`` says (see ``conf/evaluate.yaml``), in any parallel layout.

    Returns:
        0.

    Raises:
        ValueError: what does not fit, by its key, or by file and line.
        FileNotFoundError, CheckpointDamaged: by name.
    """
    began = time.monotonic()
    if cfg.split not in SPLITS:
        raise ValueError(
            f"split={cfg.split} is not one of {', '.join(SPLITS)}{nearest(cfg.split, SPLITS)}"
        )
    if not cfg.get("restore_from_path"):
        raise ValueError("no model is given: write restore_from_path=x.nemo")
    check_archive(cfg.restore_from_path)
    folder = train.log_dir(cfg)
    check_writable(folder)
    own = _as_saved(cfg)
    trainer = build_trainer(own)
    train.join(trainer)
    model = _restored(own, trainer)
    outcome: dict[str, Any] = {"task": model.task.name, "split": cfg.split, "metrics": {}}
    if cfg.score:
        outcome["metrics"] |= _score(model, trainer, cfg.split, folder)
    if cfg.generate and hasattr(model.task, "generation_prompts"):
        outcome["metrics"] |= _generate(model, cfg, folder)
    outcome["model"] = str(cfg.restore_from_path)
    outcome["seconds"] = round(time.monotonic() - began, 1)
    outcome["command"] = " ".join(sys.argv)
    if trainer.is_global_zero:
        text = json.dumps(outcome, indent=1)
        (folder / METRICS).write_text(text + "\n", encoding="utf-8")
        shown = ", ".join(f"{name} {value:.4f}" for name, value in outcome["metrics"].items())
        print(f"{model.task.name} {cfg.split}: {shown or 'no labels'} ({folder})", flush=True)
    torch.distributed.barrier()
    return 0


def _as_saved(cfg: DictConfig) -> DictConfig:
    """The configuration with the model of the archive."""
    own = cast(DictConfig, OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))
    saved = read_nemo_config(cfg.restore_from_path)
    with open_dict(own), open_dict(saved):
        for name in _OF_THE_RUN:
            saved[name] = own.model.get(name)
        saved.eval_batch_size = own.model.get("eval_batch_size") or own.model.micro_batch_size
        # no training: any batch that the layout can divide
        saved.micro_batch_size = 1
        saved.global_batch_size = int(own.trainer.devices) * int(own.trainer.num_nodes)
        own.model = saved
        own.trainer.max_steps = own.trainer.val_check_interval = 1  # there are none
        own.trainer.limit_val_batches = 1.0
    return own


def _restored(cfg: DictConfig, trainer: Any) -> Any:
    from glmkd_nemo.models.task_modelpt import GLMTaskModelPT

    return train.build(cfg, trainer, GLMTaskModelPT)


def _score(model: Any, trainer: Any, split: str, folder: Path) -> dict[str, float]:
    """Metrics of probabilities; writes the task's own files of predictions."""
    metrics, scores = model.evaluate(split, lambda: trainer.validate(model, verbose=False))
    if trainer.is_global_zero:
        model.task.write_predictions(split, scores, folder)
    return dict(metrics)


def _generate(model: Any, cfg: DictConfig, folder: Path) -> dict[str, float]:
    """Metrics of generated texts; each data-parallel rank generates a part of them."""
    from glmkd_nemo.generation import Generator

    task = model.task
    model.configure_model()
    prompts = task.generation_prompts(cfg.split)[: cfg.limit]
    rank = parallel_state.get_data_parallel_rank()
    ranks = parallel_state.get_data_parallel_world_size()
    mine = range(rank, len(prompts), ranks)
    first = torch.distributed.get_rank() == 0
    generator = Generator(model.glm, model.tokenizer, int(model.cfg.eval_batch_size))
    with tqdm(total=len(mine), desc="generating", disable=not first) as bar:
        made = generator.generate(
            [prompts[i] for i in mine], task.generation, lambda n: bar.update(n - bar.n)
        )
    texts = {i: task.prediction(one) for i, one in zip(mine, made, strict=True)}
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, texts)
    whole = {i: text for part in every for i, text in part.items()}
    predictions = [whole[i] for i in range(len(prompts))]
    if first:
        task.write_generations(cfg.split, predictions, folder)
    return dict(task.generation_metrics(cfg.split, predictions))
