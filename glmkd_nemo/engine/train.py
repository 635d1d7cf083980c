"""A whole training run: checks, processes, resume, fit, ``.nemo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf, open_dict

from glmkd_nemo.checkpoint.archive import check_archive
from glmkd_nemo.checkpoint.nemo import check_writable
from glmkd_nemo.engine import resume
from glmkd_nemo.engine.callbacks import ProgressLine, StopWithCheckpoint
from glmkd_nemo.engine.trainer import build_trainer

STOPPED = 130  # exit code of a run that a signal ended, as shells have it


def train(cfg: DictConfig, model_class: type | None = None) -> int:
    """Pre-trains or distils as ``cfg`` says; the same call goes on where it stopped.

    Args:
        cfg: the whole configuration (see ``conf/pretrain.yaml``).
        model_class: the ModelPT; default: distillation if ``model.distill`` has terms.

    Returns:
        0, or 130 after Ctrl-C (a checkpoint is written).

    Raises:
        ValueError: what does not fit, before anything is trained.
        FileNotFoundError, CheckpointDamaged: by name.
    """
    folder = log_dir(cfg)
    check_writable(folder)
    if cfg.get("save_nemo"):
        check_writable(Path(cfg.save_nemo).parent)
    if cfg.get("restore_from_path"):
        check_archive(cfg.restore_from_path)
    stop = StopWithCheckpoint()
    trainer = build_trainer(cfg, [ProgressLine(), stop])
    join(trainer)
    start_experiment(cfg, trainer, folder)
    model = build(cfg, trainer, model_class or class_for(cfg))
    trainer.fit(model)
    trainer.ckpt_path = None  # else a later validate() would restore it
    if stop.stopped_at is not None:
        if trainer.is_global_zero:
            where = f"{stop.stopped_at} of {trainer.max_steps}"
            note = f"stopped at step {where}; the same command goes on"
            print(note, file=sys.stderr, flush=True)
        return STOPPED
    target = cfg.get("save_nemo") or str(folder / f"{cfg.name}.nemo")
    model.save_to(target)
    if trainer.is_global_zero:
        print(f"wrote {target}", file=sys.stderr, flush=True)
    return 0


def class_for(cfg: DictConfig) -> type:
    """The ModelPT for a configuration: with distillation terms, or plain.

    Raises:
        ValueError: ``model.run_ahead`` asks for something, and there is no teacher.
    """
    if (cfg.model.get("distill") or {}).get("terms"):
        from glmkd_nemo.models.distill_modelpt import GLMDistillModelPT

        return GLMDistillModelPT
    from glmkd_nemo.distill.ahead_bounds import check_unused
    from glmkd_nemo.models.modelpt import GLMModelPT

    check_unused(cfg.model.get("run_ahead"))
    return GLMModelPT


def log_dir(cfg: DictConfig) -> Path:
    """Where exp_manager will write."""
    settings = cfg.exp_manager
    if settings.get("explicit_log_dir"):
        return Path(settings.explicit_log_dir)
    parts = [settings.get("exp_dir") or "nemo_experiments", settings.get("name") or cfg.name]
    version = settings.get("version")
    return Path(*parts, version) if version else Path(*parts)


def join(trainer: Any) -> None:
    """Starts and joins all processes now, not in ``fit``: what follows needs all ranks."""
    launcher = trainer.strategy.launcher
    if launcher is not None and not torch.distributed.is_initialized():
        launcher.launch(lambda: None, trainer=trainer)
    trainer.strategy.setup_environment()


def start_experiment(cfg: DictConfig, trainer: Any, folder: Path) -> None:
    """Lets exp_manager set up logging and checkpoints, and resume from the newest whole one.

    Raises:
        CheckpointDamaged: there are checkpoints, and none is whole (on all ranks).
    """
    settings = DictConfig(OmegaConf.to_container(cfg.exp_manager, resolve=True))
    if settings.get("explicit_log_dir"):  # else NeMo says at length that exp_dir does not count
        settings.exp_dir = None
    if settings.get("resume_if_exists"):
        box: list[Any] = [None, None]
        if torch.distributed.get_rank() == 0:
            try:
                box[0] = resume.prepare(folder / "checkpoints")
            except (ValueError, OSError) as error:
                box[1] = error
        torch.distributed.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        if box[0] is not None:
            with open_dict(settings):
                settings.resume_from_checkpoint = str(box[0])
    exp_manager(trainer, settings)


def build(cfg: DictConfig, trainer: Any, model_class: Any) -> Any:
    """A new model, or one whose weights come from ``restore_from_path``."""
    if cfg.get("restore_from_path") and trainer.ckpt_path is None:
        return model_class.restore_from(
            cfg.restore_from_path, override_config_path=cfg.model, trainer=trainer
        )
    return model_class(cfg.model, trainer)
