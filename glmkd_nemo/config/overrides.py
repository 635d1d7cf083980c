"""Command-line overrides, checked before Hydra sees them.

Hydra refuses a key that is not in the YAML without a suggestion, and wants ``+`` before one that is
valid but not written there. Here a key is valid if the schema has it, whether written or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from glmkd_nemo.config.strict import ConfigError, known_path, nearest


def check_overrides(
    arguments: list[str], schema: type, conf: Path, sections: Mapping[str, type]
) -> list[str]:
    """Checks ``key=value`` arguments and spells them the way Hydra accepts.

    Args:
        arguments: e.g. ``model.hidden_size=64``, ``model=base``, ``+model.x=1``, ``~model.x``.
        schema: dataclass of the whole configuration.
        conf: directory of the configuration groups.
        sections: dataclasses for fields that the schema leaves open.

    Returns:
        The arguments; a known key is set whether the YAML has it or not.

    Raises:
        ConfigError: one message with all problems.
    """
    groups = {p.name for p in conf.iterdir() if p.is_dir()} if conf.is_dir() else set()
    problems, spelled = [], []
    for argument in _teachers_by_path(arguments):
        problem, text = _one(argument, schema, conf, groups, sections)
        spelled.append(text)
        if problem:
            problems.append(problem)
    if problems:
        raise ConfigError("\n".join(problems))
    return spelled


def _teachers_by_path(arguments: list[str]) -> list[str]:
    """``teacher=x.nemo`` in full: the group with one teacher, and where it is."""
    spelled = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "teacher" and value.strip("'\"").endswith(".nemo"):
            spelled += ["teacher=nemo", f"model.teachers.t0.restore_from_path={value}"]
        else:
            spelled.append(argument)
    return spelled


def _one(
    argument: str, schema: type, conf: Path, groups: set[str], sections: Mapping[str, type]
) -> tuple[str | None, str]:
    bare = argument.lstrip("+~")
    key, separator, value = bare.partition("=")
    if key.startswith("hydra"):
        return None, argument
    group = key.split("@")[0].lstrip("/")
    if group in groups and "." not in group:
        return _group(group, value.strip("'\""), conf), argument  # a name may be quoted: '2b'
    if argument.startswith("~"):
        return known_path(key, schema, sections), argument
    if not separator:
        return f"{argument} is no key=value: write trainer.max_steps=100, for instance", argument
    problem = known_path(key, schema, sections)
    if problem and "." not in key:
        problem = f"unknown key {key}{nearest(key, groups | _fields(schema))}"
    return problem, f"++{bare}"


def _fields(schema: type) -> set[str]:
    return set(schema.__dataclass_fields__)  # type: ignore[attr-defined]


def _group(group: str, value: str, conf: Path) -> str | None:
    options = {p.stem for p in (conf / group).glob("*.yaml")}
    if value in options or value in ("", "null") or (conf / group / f"{value}.yaml").is_file():
        return None
    known = ", ".join(sorted(options))
    return f"{group}={value} is unknown{nearest(value, options)} (there are: {known})"
