"""From the settings of a recipe to its stages: what each needs, and its arguments in full."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmkd_nemo.config.strict import ConfigError, nearest
from glmkd_nemo.recipe.settings import (
    DataSettings,
    RecipeSettings,
    StageSettings,
)
from glmkd_nemo.recipe.stage import Recipe, Stage
from glmkd_nemo.tune.settings import flat
from glmkd_nemo.tune.spelling import spell

ON_TASKS = "finetune"  # a stage of this script is there once for every task
_NAME = re.compile(r"[\w-]+")
_REFERENCE = re.compile(r"\{(stage|folder):([\w.-]+)\}")


@dataclass
class _Draft:
    """A stage that is being written down: what ``{...}`` stands for in it, what it needs."""

    name: str
    template: str
    task: str | None
    folder: Path
    needs: list[str] = field(default_factory=list)


class Planner:
    """Turns settings into stages.

    Args:
        name: of the recipe.
        settings: of its file and of the caller.
    """

    def __init__(self, name: str, settings: RecipeSettings) -> None:
        self.name, self.settings = name, settings
        self.tiny = settings.scale == "tiny"
        default = f"runs/recipe{'_tiny' if self.tiny else ''}/{name}"
        self.out = Path(settings.out or default)
        self.templates = {
            key: stage
            for key, stage in settings.stages.items()
            if stage is not None and stage.only in (None, settings.scale)
        }
        self.data = DataSettings(**settings.tiny.data) if self.tiny else settings.data
        self.done: dict[str, Stage] = {}
        self.begun: list[str] = []

    def recipe(self) -> Recipe:
        """All of it."""
        if not self.templates:
            raise ConfigError("it has no stages")
        for name in self.templates:
            for task in self.settings.tasks if self._on_tasks(name) else [None]:
                if not self._given(name):
                    self._stage(name, task)
        for name in self.settings.changes:
            if name not in self.done and name not in self.templates:
                hint = nearest(name, {*self.done, *self.templates})
                raise ConfigError(f"stages.{name}: no stage is called so{hint}")
        stages = tuple(self.done.values())
        return Recipe(self.name, self.out, stages, self.settings.scale, self._inputs())

    def _on_tasks(self, name: str) -> bool:
        return self.templates[name].script == ON_TASKS

    def _given(self, name: str) -> str | None:
        return None if self.tiny else self.templates[name].given

    def _inputs(self) -> tuple[tuple[str, str], ...]:
        if self.tiny:
            return ()
        used = " ".join(a for stage in self.done.values() for a in stage.arguments)
        models = [(f"stages.{name}.given", self._given(name) or "") for name in self.templates]
        data = [("data.corpus", path) for path in self.data.corpus]
        data += [("data.tokenizer", self.data.tokenizer), ("data.tasks", self.data.tasks)]
        return tuple((key, path) for key, path in models + data if path and path in used)

    def _stage(self, template: str, task: str | None) -> Stage:
        """A stage, after those that it needs."""
        full = f"{template}_{task}" if task else template
        if full in self.done:
            return self.done[full]
        if full in self.begun:
            raise ConfigError(f"stages {', '.join(self.begun)} need each other")
        if not _NAME.fullmatch(full):
            raise ConfigError(f"stages.{full}: a name has letters, digits, _ and - only")
        self.begun.append(full)
        settings = self.templates[template]
        place = (settings.folder or f"{{out}}/{full}").format(out=self.out)
        draft = _Draft(full, template, task, Path(os.path.normpath(place)))
        for other in settings.needs:
            self._refer(draft, other)
        self.done[full] = self._written(draft, settings)
        self.begun.remove(full)
        return self.done[full]

    def _written(self, draft: _Draft, settings: StageSettings) -> Stage:
        values: dict[str, Any] = {}
        if isinstance(settings.overrides, list):
            found = [self._filled(draft, entry) for entry in settings.overrides]
            several = [entry if isinstance(entry, list) else [entry] for entry in found]
            arguments = [str(entry) for entries in several for entry in entries]
        else:
            values = self._values(draft, settings)
            arguments = [f"{key}={spell(value)}" for key, value in values.items()]
        model, result = _leaves(settings, draft.name, draft.folder)
        return Stage(
            name=draft.name,
            script=settings.script,
            arguments=tuple(arguments),
            needs=tuple(dict.fromkeys(draft.needs)),
            folder=draft.folder,
            result=result,
            nodes=_number(draft.name, values, "trainer.num_nodes"),
            devices=_number(draft.name, values, "trainer.devices"),
            model=model,
        )

    def _values(self, draft: _Draft, settings: StageSettings) -> dict[str, Any]:
        """Overrides of a script with a configuration, later ones winning."""
        s, script, task = self.settings, settings.script, draft.task or ""
        values = _merged(
            {"name": draft.name, **({"task": task} if task else {})},
            {"gives": "last"} if settings.gives == "last" else {},
            self._chain(draft, settings),
            s.scripts.get(script, {}),
            s.per_task.get(task, {}),
            settings.overrides or {},
            settings.per_task.get(task, {}),
        )
        if script == ON_TASKS and not values.get("method") and not values.get("aggregator"):
            values = _merged(values, s.labels)
        if self.tiny:
            sizes = s.tiny.models.get(str(values.get("model")), {})
            values = _merged(
                values,
                s.tiny.scripts.get(script, {}),
                {f"model.{key}": value for key, value in sizes.items()},
                s.tiny.per_task.get(task, {}),
                settings.tiny,
            )
        mine = [s.changes.get(name, {}) for name in dict.fromkeys((draft.template, draft.name))]
        values = _merged(values, *mine, {"exp_manager.explicit_log_dir": str(draft.folder)})
        return {key: self._filled(draft, value) for key, value in values.items()}

    def _chain(self, draft: _Draft, settings: StageSettings) -> dict[str, Any]:
        """Where weights to start from and teachers are."""
        found: dict[str, Any] = {}
        if settings.student:
            found["restore_from_path"] = self._model(draft, settings.student)
        teachers = [settings.teacher] if settings.teacher else settings.teachers
        for number, teacher in enumerate(teachers):
            found[f"model.teachers.t{number}.restore_from_path"] = self._model(draft, teacher)
        return found

    def _refer(self, draft: _Draft, name: str) -> Stage:
        """The stage called so: of the same task, or the one that all tasks share."""
        if name not in self.templates:
            hint = nearest(name, self.templates)
            raise ConfigError(f"stages.{draft.template}: there is no stage {name!r}{hint}")
        if self._on_tasks(name) and not draft.task:
            raise ConfigError(
                f"stages.{draft.template} cannot start from {name}, which is there for every task"
            )
        stage = self._stage(name, draft.task if self._on_tasks(name) else None)
        draft.needs.append(stage.name)
        return stage

    def _model(self, draft: _Draft, name: str) -> str:
        if name.endswith(".nemo"):
            return name
        given = self._given(name) if name in self.templates else None
        if given:
            return given.replace("{task}", draft.task or "")
        stage = self._refer(draft, name)
        if stage.model is None:
            raise ConfigError(f"stages.{draft.template}: stage {name} leaves no .nemo")
        return str(stage.model)

    def _filled(self, draft: _Draft, value: Any) -> Any:
        """`value` with ``{stage:NAME}``, ``{folder:NAME}``, ``{corpus}`` and so on replaced."""
        if isinstance(value, list):
            return [self._filled(draft, entry) for entry in value]
        if not isinstance(value, str):
            return value
        words = self._words(draft)
        for key, found in words.items():
            if value == f"{{{key}}}":  # of any type
                return self._filled(draft, found)
            if isinstance(found, str):
                value = value.replace(f"{{{key}}}", found)

        def replaced(found: re.Match[str]) -> str:
            kind, name = found.groups()
            return self._model(draft, name) if kind == "stage" else self._folder(draft, name)

        return _REFERENCE.sub(replaced, value)

    def _variables(self, draft: _Draft) -> dict[str, Any]:
        given = self.settings.variables
        return {**given.get("all", {}), **given.get(draft.task or "", {})}

    def _words(self, draft: _Draft) -> dict[str, Any]:
        data = {"tokenizer": self.data.tokenizer, "tasks": self.data.tasks}
        own = {"task": draft.task or "", "folder": str(draft.folder), "out": str(self.out)}
        return {"corpus": self.data.corpus, **data, **own, **self._variables(draft)}

    def _folder(self, draft: _Draft, name: str) -> str:
        return str(self._refer(draft, name).folder)


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested and dotted keys as dotted ones; later layers win."""
    found: dict[str, Any] = {}
    for layer in layers:
        found |= flat(layer)
    return found


def _number(stage: str, values: Mapping[str, Any], key: str) -> int:
    value = values.get(key, 1)
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"stage {stage}: {key}={value} must be a number from 1")
    return value


def _leaves(stage: StageSettings, name: str, folder: Path) -> tuple[Path | None, Path]:
    """The model that a stage leaves, and the file by which one sees that it is done."""
    if stage.result:
        result = Path(stage.result.format(folder=folder))
        return (result if result.suffix == ".nemo" else None), result
    if stage.script == ON_TASKS:
        if stage.gives not in ("best", "last"):
            raise ConfigError(f"stage {name} gives {stage.gives}: choose best or last")
        return folder / f"{stage.gives}.nemo", folder / "results.json"
    model = folder / f"{name}.nemo"
    return model, model
