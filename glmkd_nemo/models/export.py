"""The configuration that a ``.nemo`` keeps."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from glmkd_nemo.models.build_vocab_map import kept_section


def plain_glm_config(cfg: DictConfig, target: str) -> DictConfig:
    """A configuration without what trained the model: a plain GLM, whatever taught it.

    Args:
        cfg: the section ``model``.
        target: class that restores it.
    """
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    for name in ("teachers", "distill", "run_ahead", "fused_head_rows", "student_init", "task"):
        config.pop(name, None)
    config["vocab_map"] = kept_section(config.get("vocab_map"))
    config["target"] = target
    return DictConfig(config)
