"""Which stages are launched: a recipe's, some of them, or stages given in full."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from glmkd_nemo.cluster.sbatch import is_of
from glmkd_nemo.cluster.settings import LaunchSettings
from glmkd_nemo.config.strict import ConfigError, check, nearest
from glmkd_nemo.recipe.plan import SCHEMAS, Recipe, Stage, load_recipe


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


@dataclass(frozen=True)
class Choice:
    """A recipe with the stages that are asked for, and its ``others``."""

    recipe: Recipe
    others: tuple[Stage, ...] = ()

    def outside(self, stage: Stage) -> list[Stage]:
        """Of the stages that ``stage`` needs, those that are not asked for, nor complete."""
        return [s for s in self.others if s.name in stage.needs and not s.result.exists()]


def chosen(settings: LaunchSettings) -> Choice:
    """The stages that are asked for.

    Raises:
        ConfigError: an unknown stage, or a key or value of one that cannot be.
        OSError: a recipe that cannot be read.
    """
    if settings.recipe is None:
        return Choice(_in_full(settings))
    changes = [*settings.changes, *([f"out={settings.out}"] if settings.out else [])]
    recipe = load_recipe(settings.recipe, changes)
    if not settings.stages:
        return Choice(recipe)
    names = [stage.name for stage in recipe.stages]
    for name in settings.stages:
        if name not in names:
            hint = nearest(name, names)
            raise ConfigError(
                f"stages: recipe {recipe.name} has no {name}{hint} (there are: {', '.join(names)})"
            )
    kept = tuple(stage for stage in recipe.stages if stage.name in settings.stages)
    others = tuple(stage for stage in recipe.stages if stage not in kept)
    return Choice(replace(recipe, stages=kept), others)


def check_times(times: Iterable[str], choice: Choice) -> None:
    """Refuses a key of ``cluster.times`` that is no stage's.

    Raises:
        ConfigError: it names the key, and the nearest stage.
    """
    names = [stage.name for stage in (*choice.recipe.stages, *choice.others)]
    for key in times:
        if not any(is_of(key, name) for name in names):
            hint = nearest(key, names)
            raise ConfigError(f"cluster.times.{key}: there is no such stage{hint}")


def check_needs(choice: Choice, queued: Collection[str]) -> None:
    """Refuses a stage that needs one which is not asked for, nor complete, nor queued.

    Raises:
        ConfigError: it names both.
    """
    for stage in choice.recipe.stages:
        for other in [] if stage.result.exists() else choice.outside(stage):
            if other.name not in queued:
                raise ConfigError(
                    f"stage {stage.name} needs {other.name}, which is neither complete nor queued: "
                    "add it to stages="
                )


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
