"""Commands of this project, and how one is put together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from glmkd_nemo.tune.settings import CONF
from glmkd_nemo.tune.spelling import spell

_OBJECTIVE = ("method=", "aggregator=")  # written by terms.py, with their changes


@dataclass(frozen=True)
class Command:
    """One command: ``python scripts/SCRIPT.py OVERRIDES``.

    Attributes:
        script: name of a file in ``scripts``, without ``.py``.
        overrides: its arguments.
        notes: options of the original without effect or equivalent, with the reason; what else
            the user should know.
        environment: variables set for it.
    """

    script: str
    overrides: tuple[str, ...]
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def spelled(value: Any) -> str:
    """`value` as an override has it; the word none needs no quotes there."""
    return "none" if value == "none" else spell(value)


@functools.cache
def composed(config: str, groups: tuple[str, ...]) -> Mapping[str, Any]:
    """A shipped configuration with choices of groups, not interpolated: nested mappings."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(config, overrides=list(groups))
    found: Any = OmegaConf.to_container(cfg)
    return found


@functools.cache
def section(name: str, group: str) -> Mapping[str, Any]:
    """A YAML file of a group of ``conf`` as it stands."""
    found: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    return found


def names(group: str) -> list[str]:
    """The files of a group of ``conf``."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


class Plan:
    """What a command is to have; writes only what the configuration would not have anyway.

    Args:
        config: ``pretrain``, ``finetune``, ``evaluate`` or ``generate``.

    Attributes:
        answers: whether training learns predictions, not inner states only.
    """

    def __init__(self, config: str) -> None:
        self.config = config
        self.answers = True
        self.groups: dict[str, str] = {}
        self.notes: list[str] = []
        self._wanted: dict[str, tuple[Any, Any]] = {}
        self._more: list[str] = []

    def set(self, key: str, value: Any, default: Any = None) -> None:
        """Wants ``key=value``.

        Args:
            key, value: of the configuration.
            default: what it is where the YAML does not have the key.
        """
        self._wanted[key] = (value, default)

    def wanted(self, key: str) -> Any:
        """What was wanted of a key so far."""
        return self._wanted[key][0] if key in self._wanted else None

    def add(self, override: str) -> None:
        """An override to be written as it is."""
        self._more.append(override)

    def note(self, text: str) -> None:
        """Something the user should know."""
        if text not in self.notes:
            self.notes.append(text)

    def overrides(self) -> list[str]:
        """Groups first, then keys in the order in which they were wanted."""
        found = [f"{name}={choice}" for name, choice in self.groups.items()]
        base = composed(self.config, tuple(g for g in found if not g.startswith(_OBJECTIVE)))
        for key, (value, default) in self._wanted.items():
            there, now = _at(base, key)
            if not _same(now if there else default, value):
                found.append(f"{key}={spelled(value)}")
        return found + self._more


def _at(tree: Any, key: str) -> tuple[bool, Any]:
    for word in key.split("."):
        if not isinstance(tree, Mapping) or word not in tree:
            return False, None
        tree = tree[word]
    return True, tree


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_same(a, b) for a, b in pairs)
    return bool(one == other)
