"""One training of the demo, through the project's own configuration, trainer and checkpoints.

The functions here are run by :func:`glmkd_nemo.demo.process.run_apart`, each in its own process;
they do what ``scripts/pretrain.py`` does, with the demo's progress line in place of its.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer
from nemo.core.config import hydra_runner  # noqa: F401  (registers the resolvers of conf/)
from omegaconf import DictConfig, OmegaConf

from glmkd_nemo.config.run import CONF, aggregator_fields, open_sections, term_fields
from glmkd_nemo.config.schema import PretrainSchema
from glmkd_nemo.config.strict import check
from glmkd_nemo.demo.callbacks import Watch
from glmkd_nemo.engine.callbacks import StopWithCheckpoint
from glmkd_nemo.engine.train import build, class_for, join, start_experiment
from glmkd_nemo.engine.trainer import build_trainer


def whole_config(changes: dict[str, Any]) -> DictConfig:
    """``conf/pretrain.yaml`` with `changes` (nested) applied and checked strictly.

    Raises:
        ValueError: a key that the configuration does not have.
    """
    config = _composed(changes)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    check(plain, PretrainSchema, open_sections(), term_fields, aggregator_fields)
    return config


def _composed(changes: dict[str, Any]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("pretrain")
    OmegaConf.set_struct(config, False)
    merged = OmegaConf.merge(config, changes)
    assert isinstance(merged, DictConfig)
    return merged


def train(folder: Path, label: str, changes: dict[str, Any], threads: int) -> dict[str, Any]:
    """Trains one model and writes ``<folder>/<name>.nemo``; resumes from its own checkpoints.

    Args:
        folder: of the stage.
        label: shown before the progress bar.
        changes: what differs from ``conf/pretrain.yaml``.
        threads: of torch in this process.

    Returns:
        nemo (path), parameters, step_seconds, steps and losses of the curve.

    Raises:
        KeyboardInterrupt: Ctrl-C; a checkpoint is written.
    """
    torch.set_num_threads(threads)
    config = whole_config(changes)
    watch, stop = Watch(label), StopWithCheckpoint()
    trainer = build_trainer(config, [watch, stop])
    join(trainer)
    start_experiment(config, trainer, folder)
    model = build(config, trainer, class_for(config))
    trainer.fit(model)
    if stop.stopped_at is not None:
        raise KeyboardInterrupt
    target = folder / f"{config.name}.nemo"
    model.save_to(str(target))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # only an interrupted run needs them
    return {
        "nemo": str(target),
        "parameters": model.glm.num_parameters(),
        "step_seconds": watch.step_seconds,
        "steps": watch.steps,
        "losses": watch.losses,
    }


def held_out(nemo: str, prefix: Path, batches: int, threads: int) -> dict[str, float]:
    """Loss (nats per blank token) and accuracy of a ``.nemo`` on a held-out text.

    Args:
        nemo: the archive.
        prefix: indexed corpus to measure on.
        batches: of the size the model was trained with.
        threads: of torch in this process.
    """
    torch.set_num_threads(threads)
    model, trainer = _restored(nemo, [str(prefix)], batches)
    (numbers,) = trainer.validate(model, verbose=False)
    return {"loss": numbers["val_loss"], "accuracy": numbers["val_accuracy"]}


def answers(nemo: str, sentences: list[str], threads: int) -> list[str]:
    """What a ``.nemo`` puts into the ``[MASK]`` of each sentence."""
    from glmkd_nemo.demo.blanks import fill_blank

    torch.set_num_threads(threads)
    model, _ = _restored(nemo, [], 0)
    glm, tokenizer = model.glm.eval(), model.tokenizer
    commands = frozenset(token.id for token in tokenizer.commands.values())
    return [fill_blank(glm, tokenizer, text, forbidden=commands) for text in sentences]


def _restored(nemo: str, valid_prefixes: list[str], batches: int) -> tuple[Any, Trainer]:
    """The plain GLM in a ``.nemo`` (a distilled student is one too), and a trainer for it."""
    from glmkd_nemo.checkpoint.nemo import read_nemo_config
    from glmkd_nemo.models.modelpt import GLMModelPT

    config = _composed({"trainer": {"limit_val_batches": batches}})
    section = read_nemo_config(nemo)
    OmegaConf.update(section, "data.valid_prefixes", valid_prefixes, force_add=True)
    config.model = section
    trainer = build_trainer(config)
    join(trainer)
    model = GLMModelPT.restore_from(nemo, override_config_path=section, trainer=trainer)
    return model, trainer
