"""Which stages are launched: a recipe's, some of them, or stages given in full."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from glmkd_nemo.cluster.resolve import SCHEMAS
from glmkd_nemo.cluster.settings import LaunchSettings
from glmkd_nemo.config.strict import ConfigError, check, nearest
from glmkd_nemo.recipe.plan import Recipe, Stage, load_recipe


@dataclass
class StageInFull:
    """A stage of ``stages=[{...}]``; ``result`` is relative to its folder ``<out>/<name>``."""

    name: str = ""
    script: str = "pretrain"
    arguments: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    result: str = ""
    nodes: int = 1
    devices: int = 1


def chosen(settings: LaunchSettings) -> Recipe:
    """The recipe with the stages that are asked for.

    Raises:
        ConfigError: an unknown stage, or a key or value of one that cannot be.
        OSError: a recipe that cannot be read.
    """
    if settings.recipe is None:
        return _in_full(settings)
    changes = [*settings.changes, *([f"out={settings.out}"] if settings.out else [])]
    recipe = load_recipe(settings.recipe, changes)
    if not settings.stages:
        return recipe
    names = [stage.name for stage in recipe.stages]
    for name in settings.stages:
        if name not in names:
            hint = nearest(name, names)
            raise ConfigError(
                f"stages: recipe {recipe.name} has no {name}{hint} (there are: {', '.join(names)})"
            )
    kept = tuple(stage for stage in recipe.stages if stage.name in settings.stages)
    return replace(recipe, stages=kept)


def _in_full(settings: LaunchSettings) -> Recipe:
    if settings.out is None:
        raise ConfigError("out must be given with stages in full: write out=FOLDER")
    out = Path(settings.out).absolute()
    stages = [_stage(section, out) for section in settings.stages or []]
    names = [stage.name for stage in stages]
    for stage in stages:
        unknown = set(stage.needs) - set(names[: names.index(stage.name)])
        if unknown:
            raise ConfigError(f"stage {stage.name} needs {unknown.pop()}, which is not before it")
    if len(set(names)) < len(names):
        raise ConfigError("stages: two have the same name")
    return Recipe(out.name, out, tuple(stages))


def _stage(section: Any, out: Path) -> Stage:
    if not isinstance(section, dict):
        raise ConfigError(f"stages: {section!r} names a stage of a recipe: give recipe=NAME too")
    check(section, StageInFull)
    given = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(StageInFull), section))
    assert isinstance(given, StageInFull)
    if not given.name or not given.result:
        raise ConfigError(
            f"stages: {section}: name and result (the file that a complete stage leaves) are needed"
        )
    folder = out / given.name
    size = {"nodes": "trainer.num_nodes", "devices": "trainer.devices"}
    sizes = [f"{key}={section[name]}" for name, key in size.items() if name in section]
    return Stage(
        name=given.name,
        script=given.script,
        arguments=(*given.arguments, *(sizes if given.script in SCHEMAS else [])),
        needs=tuple(given.needs),
        folder=folder,
        result=folder / given.result,
        nodes=given.nodes,
        devices=given.devices,
    )
