"""A Lightning trainer for Megatron-Core, from the sections ``trainer`` and ``model``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from glmkd_nemo.engine.callbacks import LoggedSteps
from glmkd_nemo.engine.deepspeed_config import uses_deepspeed
from glmkd_nemo.engine.layout import check_layout
from glmkd_nemo.engine.overlap import ddp_settings
from glmkd_nemo.engine.precision import check_precision
from glmkd_nemo.engine.strategy import MegatronStrategy

# Settings that belong to the engine or to exp_manager; a user cannot change them
_FIXED: dict[str, Any] = {
    "precision": 32,  # the engine casts and scales, Lightning must not
    "logger": False,
    "enable_checkpointing": False,
    "use_distributed_sampler": False,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "inference_mode": False,  # tensors cached during validation would be useless in training
    "enable_model_summary": False,
    "enable_progress_bar": False,  # ours is a callback
}


def build_trainer(cfg: DictConfig, callbacks: list[Callback] | None = None) -> Trainer:
    """Checks the layout and builds the trainer.

    Args:
        cfg: the whole configuration; ``cfg.trainer`` takes Lightning's names.
        callbacks: further callbacks.

    Raises:
        ValueError: a layout, precision or engine that cannot be had, before any process starts.
    """
    settings = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(settings, dict)
    if int(settings.get("max_steps", -1)) < 1:
        raise ValueError("trainer.max_steps must be a number of optimizer steps, at least 1")
    if isinstance(settings.get("devices"), int):
        check_layout(cfg.model, settings["devices"] * int(settings.get("num_nodes", 1)))
    check_precision(cfg.model)
    sizes = (
        int(cfg.model.tensor_model_parallel_size),
        int(cfg.model.pipeline_model_parallel_size),
        int(cfg.model.get("seed", 1234)),
    )
    strategy: MegatronStrategy
    if uses_deepspeed(cfg):
        from glmkd_nemo.engine.deepspeed import DeepSpeedStrategy

        strategy = DeepSpeedStrategy(cfg.engine, *sizes)
    else:
        if isinstance(settings.get("devices"), int):
            world = settings["devices"] * int(settings.get("num_nodes", 1))
            ddp_settings(cfg.get("engine") or {}, world // (sizes[0] * sizes[1]))
        strategy = MegatronStrategy(*sizes, section=cfg.get("engine"))
    merged = {str(key): value for key, value in settings.items()} | _FIXED
    return Trainer(strategy=strategy, callbacks=[LoggedSteps(), *(callbacks or [])], **merged)
