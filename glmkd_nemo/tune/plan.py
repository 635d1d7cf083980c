"""What is run: cells (a task and a method), their configurations, in an order that always is.

A configuration has a folder ``<task>/<method>/<hash of its overrides>``, each of its seeds a folder
in that. The names depend on nothing else, so a sweep that was killed finds what it did.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmkd_nemo.config.strict import ConfigError, nearest
from glmkd_nemo.tune.settings import TaskSection, TuneSettings

_BEST = re.compile(r"\{best:([^}]*)\}")
_SEARCHED = re.compile(r"\s*(interval|range|tag|choice)\s*\(")
_NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True)
class Configuration:
    """One choice of hyper-parameters of a cell.

    Attributes:
        task: of ``conf/task``.
        method: its name in the settings.
        base: overrides that are not tuned.
        values: those that are.
    """

    task: str
    method: str
    base: dict[str, Any]
    values: dict[str, Any]

    @property
    def key(self) -> str:
        """Its folder, below that of all runs."""
        text = json.dumps(sorted((self.base | self.values).items()), default=str)
        return f"{self.task}/{self.method}/{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def overrides(self, seed: int) -> dict[str, Any]:
        """Of scripts/finetune.py."""
        chosen = {"task": self.task, **self.base, **self.values}
        return {key: _filled(value, "{seed}", str(seed)) for key, value in chosen.items()}


@dataclass(frozen=True)
class Cell:
    """A task and a method, which are tuned together.

    Attributes:
        task, method: see :class:`Configuration`.
        base: overrides that are not tuned.
        space: choices or search intervals, by key.
    """

    task: str
    method: str
    base: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)

    def configuration(self, values: Mapping[str, Any]) -> Configuration:
        """The configuration with these values."""
        return Configuration(self.task, self.method, self.base, dict(values))

    def grid(self) -> list[Configuration]:
        """All combinations, the last key of the space running fastest."""
        products = itertools.product(*(self.choices(key) for key in self.space))
        return [
            self.configuration(dict(zip(self.space, values, strict=True))) for values in products
        ]

    def choices(self, key: str) -> list[Any]:
        """Those of one key of the space.

        Raises:
            ConfigError: there are none, or it is an interval to search in.
        """
        value = self.space[key]
        if isinstance(value, str) and _SEARCHED.match(value):
            raise ConfigError(f"space.{key}={value} is searched, not enumerated: give trials=20")
        found = value if isinstance(value, list) else [value]
        if not found:
            raise ConfigError(f"space.{key} is empty: give at least one choice")
        return found

    def waits_for(self) -> set[str]:
        """Methods whose best run this one names."""
        return set(_BEST.findall(json.dumps(self.base, default=str)))

    def with_best(self, folders: Mapping[str, Path]) -> Cell:
        """``{best:NAME}`` replaced by folders."""
        base = self.base
        for name, folder in folders.items():
            base = {k: _filled(v, f"{{best:{name}}}", str(folder)) for k, v in base.items()}
        return Cell(self.task, self.method, base, self.space)


def cells(settings: TuneSettings) -> list[Cell]:
    """All cells: task by task, methods in the order of the settings.

    Later ones win: overrides and space of all runs, of the task, of the method (which has a value
    of its own, and is not tuned, where its section names a key of the space).

    Raises:
        ConfigError: a name that cannot be a folder.
    """
    for name in [*settings.tasks, *settings.methods]:
        if not _NAME.fullmatch(name) or set(name) == {"."}:
            raise ConfigError(f"{name!r}: a name has letters, digits and . _ + - only")
    found = []
    for task in settings.tasks:
        own = settings.per_task.get(task, TaskSection())
        space = {k: v for k, v in settings.space.items() if k not in own.overrides} | own.space
        for method, overrides in settings.methods.items():
            base = {**settings.early_stopping, **settings.overrides, **own.overrides, **overrides}
            tuned = {k: v for k, v in space.items() if k not in overrides}
            base = {k: _filled(v, "{task}", task) for k, v in base.items() if k not in tuned}
            found.append(Cell(task, method, base, tuned))
    return found


def waves(found: list[Cell]) -> list[list[Cell]]:
    """Cells in the order of their ``{best:...}``: those of a list need only lists before it.

    Raises:
        ConfigError: an unknown method, or methods that wait for each other.
    """
    methods = {cell.method for cell in found}
    for cell in found:
        for name in cell.waits_for() - methods:
            hint = nearest(name, methods)
            raise ConfigError(f"methods.{cell.method}: no method is called {name!r}{hint}")
    ordered: list[list[Cell]] = []
    done: set[str] = set()
    left = found
    while left:
        ready = [cell for cell in left if cell.waits_for() <= done]
        if not ready:
            names = ", ".join(sorted({cell.method for cell in left}))
            raise ConfigError(f"methods {names} wait for each other's best run")
        ordered.append(ready)
        done |= {cell.method for cell in ready}
        left = [cell for cell in left if cell not in ready]
    return ordered


def _filled(value: Any, mark: str, by: str) -> Any:
    if isinstance(value, list):
        return [_filled(entry, mark, by) for entry in value]
    return value.replace(mark, by) if isinstance(value, str) else value
