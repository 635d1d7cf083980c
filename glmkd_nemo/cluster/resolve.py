"""The whole configuration that a stage's command composes, without starting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glmkd_nemo.cluster.settings import CONF
from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.strict import ConfigError, check
from glmkd_nemo.recipe.plan import SCHEMAS, Stage
from glmkd_nemo.recipe.record import LAYOUT
from glmkd_nemo.tune.settings import flat

# How a stage is spread over processes, and where and how often it logs
_MAY_CHANGE = (*LAYOUT, "trainer.log_every_n_steps", "num_workers", "cache_dir", "exp_manager.")
_NONE = "(none)"  # not null, which is a value


def compose(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The resolved, checked configuration of ``scripts/<script>.py`` with these arguments.

    Keys of methods and tasks are left to the script: to know them takes Megatron-Core.

    Raises:
        ConfigError: a key or value that cannot be.
    """
    if not OmegaConf.has_resolver("multiply"):  # NeMo's, which is slow to import
        OmegaConf.register_new_resolver("multiply", lambda x, y: x * y)
    schema = SCHEMAS[script]
    spelled = check_overrides(list(arguments), schema, CONF, {})
    try:
        with hydra.initialize_config_dir(str(CONF), version_base=None):
            cfg = hydra.compose(script, overrides=spelled)
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ConfigError("\n".join(f"{key} must be given: write {key}=..." for key in missing))
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except (hydra.errors.HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    check(plain, schema)
    return plain


def resolved(stage: Stage) -> tuple[Stage, dict[str, Any]]:
    """A stage with the nodes and devices that its configuration says, and that configuration.

    A script without one configuration of its own keeps its arguments as they are.

    Raises:
        ConfigError: a key or value that cannot be; it names the stage.
    """
    if not (CONF.parent / "scripts" / f"{stage.script}.py").is_file():
        raise ConfigError(f"stage {stage.name}: there is no scripts/{stage.script}.py")
    if stage.script not in SCHEMAS:
        return stage, {"script": stage.script, "arguments": list(stage.arguments)}
    try:
        plain = compose(stage.script, stage.arguments)
    except ConfigError as error:
        raise ConfigError(f"stage {stage.name}: {error}") from error
    trainer = plain["trainer"]
    devices, nodes = int(trainer["devices"]), int(trainer["num_nodes"])
    return replace(stage, nodes=nodes, devices=devices), plain


def check_same(stage: Stage, plain: dict[str, Any], folder: Path) -> None:
    """Refuses to go on with a stage that was begun with other settings.

    Only what a job was submitted for, or has a checkpoint or a result, was begun: a dry run may be
    followed by another one.

    Raises:
        ConfigError: names the first of them, and the remedy.
    """
    path = folder / "config.yaml"
    marks = (folder / "job_id", stage.folder / "checkpoints", stage.result)
    if not path.is_file() or not any(mark.exists() for mark in marks):
        return
    before, now = _compared(OmegaConf.to_container(OmegaConf.load(path))), _compared(plain)
    for key in [*now, *before]:
        if before.get(key, _NONE) != now.get(key, _NONE):
            raise ConfigError(
                f"stage {stage.name} was begun with {key}={before.get(key, _NONE)}, and is asked "
                f"for with {key}={now.get(key, _NONE)}: choose another out=..., or remove "
                f"{stage.folder} (and the stages after it)"
            )


def _compared(plain: Any) -> dict[str, Any]:
    """Dotted keys, without those that may change between two attempts."""
    return {k: v for k, v in flat(plain).items() if not any(part in k for part in _MAY_CHANGE)}


def write(stage: Stage, plain: dict[str, Any], folder: Path) -> Path:
    """Writes ``<folder>/config.yaml``."""
    path = folder / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# scripts/{stage.script}.py as stage {stage.name} runs it\n"
    path.write_text(head + OmegaConf.to_yaml(OmegaConf.create(plain)), encoding="utf-8")
    return path
