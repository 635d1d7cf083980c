"""A recipe as a plan: its stages in order, each a complete command of one of the scripts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkd_nemo.config.strict import ConfigError, nearest
from glmkd_nemo.recipe.settings import (
    DataSettings,
    RecipeSettings,
    StageSettings,
    load_settings,
)
from glmkd_nemo.tune.settings import flat
from glmkd_nemo.tune.spelling import spell

ON_TASKS = "finetune"  # a stage of this script is there once for every task
_REFERENCE = re.compile(r"\{(stage|folder):([\w.-]+)\}")


@dataclass(frozen=True)
class Stage:
    """One command: ``python scripts/<script>.py *arguments``.

    Attributes:
        name: unique in the recipe.
        script: of ``scripts``, without suffix.
        arguments: complete.
        needs: stages that must be done before.
        folder: where it writes.
        result: what it leaves when it is complete: it is there if the stage is done.
        nodes, devices: what it asks for; devices are those of a node.
        model: the ``.nemo`` that it leaves; None if it leaves none.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    folder: Path
    result: Path
    nodes: int = 1
    devices: int = 1
    model: Path | None = None


@dataclass(frozen=True)
class Recipe:
    """Stages in an order in which they can run.

    Attributes:
        name: of its file.
        out: where it writes.
        stages: in order.
        scale: full or tiny.
        inputs: files that must be there before, with the key that names them.
    """

    name: str
    out: Path
    stages: tuple[Stage, ...]
    scale: str = "full"
    inputs: tuple[tuple[str, str], ...] = ()


def load_recipe(name_or_file: str, changes: Sequence[str] = ()) -> Recipe:
    """The plan of a recipe.

    Args:
        name_or_file: a file of ``conf/recipe`` without suffix, or the path of a YAML file.
        changes: see :func:`~glmkd_nemo.recipe.settings.load_settings`.

    Raises:
        ValueError: a key, name or value that cannot be; it names the recipe and the key.
        OSError: a file that cannot be read.
    """
    name, settings = load_settings(name_or_file, changes)
    try:
        return _Planner(name, settings).recipe()
    except ConfigError as error:
        raise ConfigError(f"recipe {name}: {error}") from error


class _Planner:
    """Turns settings into stages."""

    def __init__(self, name: str, settings: RecipeSettings) -> None:
        self.name, self.settings = name, settings
        self.tiny = settings.scale == "tiny"
        out = settings.out or f"runs/recipe{'_tiny' if self.tiny else ''}/{name}"
        self.out = Path(out)
        self.templates = {
            key: stage
            for key, stage in settings.stages.items()
            if stage is not None and stage.only in (None, settings.scale)
        }
        self.data = DataSettings(**settings.tiny.data) if self.tiny else settings.data
        self.done: dict[str, Stage] = {}
        self.given: dict[str, str] = {}

    def recipe(self) -> Recipe:
        """All of it."""
        if not self.templates:
            raise ConfigError("it has no stages")
        self._check_changes()
        for name, stage in self.templates.items():
            if stage.given and not self.tiny:
                self.given[name] = stage.given
                continue
            for task in self.settings.tasks if stage.script == ON_TASKS else [None]:
                self._add(name, stage, task)
        return Recipe(
            self.name, self.out, tuple(self.done.values()), self.settings.scale, self._inputs()
        )

    def _check_changes(self) -> None:
        known = {*self.templates} | {
            f"{name}_{task}"
            for name, stage in self.templates.items()
            for task in self.settings.tasks
            if stage.script == ON_TASKS
        }
        for name in self.settings.changes:
            if name not in known:
                raise ConfigError(f"stages.{name}: no stage is called so{nearest(name, known)}")

    def _inputs(self) -> tuple[tuple[str, str], ...]:
        if self.tiny:
            return ()
        used = " ".join(a for stage in self.done.values() for a in stage.arguments)
        models = [(f"stages.{n}.given", p) for n, p in self.given.items() if p in used]
        data = [("data.corpus", path) for path in self.data.corpus]
        data += [("data.tokenizer", self.data.tokenizer), ("data.tasks", self.data.tasks)]
        return tuple(models + [entry for entry in data if entry[1] and entry[1] in used])

    def _add(self, name: str, stage: StageSettings, task: str | None) -> None:
        full = f"{name}_{task}" if task else name
        if not re.fullmatch(r"[\w-]+", full):
            raise ConfigError(f"stages.{full}: a name has letters, digits, _ and - only")
        folder = Path(os.path.normpath((stage.folder or f"{{out}}/{full}").format(out=self.out)))
        needs: list[str] = [self._full(other, task) for other in stage.needs]
        self.place = {"task": task or "", "folder": str(folder), "name": full}
        if isinstance(stage.overrides, list):
            given = [str(entry) for entry in stage.overrides]
            arguments = [self._filled(entry, task, needs) for entry in given]
            values: dict[str, Any] = {}
        else:
            values = self._values(name, full, stage, task, folder, needs)
            arguments = [f"{key}={spell(value)}" for key, value in values.items()]
        model, result = _leaves(stage, full, folder)
        self.done[full] = Stage(
            name=full,
            script=stage.script,
            arguments=tuple(arguments),
            needs=tuple(name for name in dict.fromkeys(needs) if name in self.done),
            folder=folder,
            result=result,
            nodes=int(values.get("trainer.num_nodes", 1)),
            devices=int(values.get("trainer.devices", 1)),
            model=model,
        )

    def _values(
        self,
        name: str,
        full: str,
        stage: StageSettings,
        task: str | None,
        folder: Path,
        needs: list[str],
    ) -> dict[str, Any]:
        """Overrides of a script with a configuration, later ones winning."""
        s, script = self.settings, stage.script
        layers: list[Mapping[str, Any]] = [
            {"name": full},
            self._chain(stage, task, needs),
            s.scripts.get(script, {}),
            s.per_task.get(task or "", {}) if task else {},
            stage.overrides,
            stage.per_task.get(task or "", {}),
        ]
        values = _merged(layers)
        if self.tiny:
            sizes = s.tiny.models.get(str(values.get("model")), {})
            layers = [s.tiny.scripts.get(script, {}), {f"model.{k}": v for k, v in sizes.items()}]
            layers += [s.tiny.per_task.get(task or "", {}), stage.tiny]
            values = _merged([values, *layers])
        changes = s.changes.get(name, {}) | (s.changes.get(full, {}) if full != name else {})
        values = _merged([values, changes, {"exp_manager.explicit_log_dir": str(folder)}])
        return {key: self._filled(value, task, needs) for key, value in values.items()}

    def _chain(self, stage: StageSettings, task: str | None, needs: list[str]) -> dict[str, Any]:
        """Where weights to start from and teachers are."""
        found: dict[str, Any] = {"task": task} if task else {}
        if stage.student:
            found["restore_from_path"] = self._model(stage.student, task, needs)
        teachers = [stage.teacher] if stage.teacher else stage.teachers
        for number, teacher in enumerate(teachers):
            key = f"model.teachers.t{number}.restore_from_path"
            found[key] = self._model(teacher, task, needs)
        return found

    def _full(self, name: str, task: str | None) -> str:
        """The stage of this task, or the stage that all tasks share."""
        for candidate in (f"{name}_{task}", name):
            if candidate in self.done or candidate in self.given:
                return candidate
        known = [*self.done, *self.given]
        hint = nearest(name, known)
        raise ConfigError(f"no stage {name!r} comes before the one that names it{hint}")

    def _model(self, name: str, task: str | None, needs: list[str]) -> str:
        if name.endswith(".nemo"):
            return name
        full = self._full(name, task)
        if full in self.given:
            return self.given[full]
        model = self.done[full].model
        if model is None:
            raise ConfigError(f"stage {full} leaves no .nemo")
        needs.append(full)
        return str(model)

    def _filled(self, value: Any, task: str | None, needs: list[str]) -> Any:
        """`value` with ``{stage:NAME}``, ``{folder:NAME}``, ``{corpus}`` and so on replaced."""
        if isinstance(value, list):
            return [self._filled(entry, task, needs) for entry in value]
        if not isinstance(value, str):
            return value
        if value == "{corpus}":
            return [self._filled(entry, task, needs) for entry in self.data.corpus]

        def replaced(found: re.Match[str]) -> str:
            kind, name = found.groups()
            if kind == "stage":
                return self._model(name, task, needs)
            full = self._full(name, task)
            needs.append(full)
            return str(self.done[full].folder)

        plain = {**self.place, "tokenizer": self.data.tokenizer, "tasks": self.data.tasks}
        for key, text in plain.items():
            value = value.replace(f"{{{key}}}", text)
        return _REFERENCE.sub(replaced, value)


def _merged(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in layers:
        found |= flat(layer)
    return found


def _leaves(stage: StageSettings, name: str, folder: Path) -> tuple[Path | None, Path]:
    """The model that a stage leaves, and the file by which one sees that it is done."""
    if stage.result:
        result = Path(stage.result.format(folder=folder))
        return (result if result.suffix == ".nemo" else None), result
    if stage.script == ON_TASKS:
        return folder / "best.nemo", folder / "results.json"
    model = folder / f"{name}.nemo"
    return model, model
