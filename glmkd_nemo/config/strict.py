"""Checks a configuration against dataclasses: unknown keys are named, with the nearest known one.

OmegaConf's and Hydra's own strictness reports one key at a time and suggests nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# keys of one entry of model.distill.terms by the name of its method, or of model.distill.aggregator
Fields = Callable[[str], Iterable[str]]
TERMS, AGGREGATOR = "model.distill.terms", "model.distill.aggregator"


class ConfigError(ValueError):
    """The user's configuration is wrong; the message says where and what to write instead."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the known word nearest to ``word``, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def check(
    cfg: Mapping[str, Any],
    schema: type,
    sections: Mapping[str, type] | None = None,
    term_fields: Fields | None = None,
    aggregator_fields: Fields | None = None,
    task_fields: Fields | None = None,
) -> None:
    """Checks keys and types of a composed configuration.

    Args:
        cfg: plain (resolved) containers.
        schema: dataclass of the whole configuration.
        sections: dataclasses for fields that the schema leaves open, by dotted name.
        term_fields: names that a term of ``model.distill.terms`` may have, by method; it raises
            ValueError for an unknown method.
        aggregator_fields: the same of ``model.distill.aggregator``, by its name.
        task_fields: the same of ``task``, by its name.

    Raises:
        ConfigError: one message with all problems.
    """
    problems = list(_walk(cfg, schema, "", dict(sections or {})))
    distill = (cfg.get("model") or {}).get("distill") or {}
    if term_fields is not None:
        for name, term in (distill.get("terms") or {}).items():
            problems += _options(f"{TERMS}.{name}", term, "method", "kd", term_fields, "method")
    if aggregator_fields is not None and distill.get("aggregator"):
        problems += _aggregator(AGGREGATOR, distill["aggregator"], aggregator_fields)
    if task_fields is not None and cfg.get("task"):
        problems += _options("task", cfg["task"], "name", "rte", task_fields, "task")
    if problems:
        raise ConfigError("\n".join(problems))


def _walk(node: Any, schema: Any, path: str, sections: dict[str, type]) -> Iterable[str]:
    if not isinstance(node, Mapping):
        return
    fields = typing.get_type_hints(schema)
    scalars: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{path}{key}"
        if key not in fields:
            hint = nearest(str(key), fields)
            yield f"unknown key {name}{hint.replace('mean ', f'mean {path}')}"
            continue
        kind = sections.get(name) or _dataclass_in(fields[key])
        if kind is None:
            scalars |= {} if name == TERMS else {key: value}
        elif _is_dict_of(fields[key]) and isinstance(value, Mapping):
            for entry, inner in value.items():
                yield from _walk(inner, kind, f"{name}.{entry}.", sections)
        elif value is not None and not isinstance(value, Mapping):
            yield f"{name}={value!r} must be a section with keys of its own"
        else:
            yield from _walk(value, kind, f"{name}.", sections)
    yield from _wrong_types(path, scalars, schema)


def _wrong_types(path: str, scalars: dict[str, Any], schema: type) -> Iterable[str]:
    try:
        OmegaConf.merge(OmegaConf.structured(_without_sections(schema)), scalars)
    except OmegaConfBaseException as error:
        if len(scalars) > 1:  # a merge is slow: key by key only when one of them is wrong
            for key, value in scalars.items():
                yield from _wrong_types(path, {key: value}, schema)
            return
        ((key, value),) = scalars.items()
        reason = str(error).splitlines()[0]
        yield f"{path}{key}={value!r} is of the wrong type: {reason}"


@functools.cache
def _without_sections(schema: type) -> type:
    """The schema's own values alone: making its sections too takes most of the time of a check."""
    hints = typing.get_type_hints(schema)
    own = [f for f in dataclasses.fields(schema) if _dataclass_in(hints[f.name]) is None]
    return dataclasses.make_dataclass(
        schema.__name__,
        [
            (
                f.name,
                hints[f.name],
                dataclasses.field(default=f.default, default_factory=f.default_factory),  # type: ignore[call-overload]
            )
            for f in own
        ],
    )


def _aggregator(path: str, node: Any, fields: Fields) -> Iterable[str]:
    """An aggregator, and those that it mixes."""
    yield from _options(path, node, "name", "mean", fields, "aggregator")
    members = node.get("members") if isinstance(node, Mapping) else None
    for number, member in enumerate(members if isinstance(members, list) else ()):
        yield from _aggregator(f"{path}.members[{number}]", member, fields)


def _options(
    path: str, node: Any, key: str, example: str, fields: Fields, noun: str
) -> Iterable[str]:
    """A section whose entry ``key`` decides which others it may have."""
    chosen = node.get(key) if isinstance(node, Mapping) else None
    if not chosen:
        yield f"{path} names no {noun}: add {path}.{key}={example} or another one"
        return
    try:
        known = list(fields(chosen))
    except ValueError as error:
        yield f"{path}.{key}: {error}"
        return
    for name in node:
        if name not in known:
            yield f"unknown key {path}.{name} ({chosen}){nearest(name, known)}"


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass that a type hint holds: ``X``, ``X | None``, ``dict[str, X]``."""
    if dataclasses.is_dataclass(hint):
        return typing.cast(type, hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) in (typing.Union, dict):
        found = [_dataclass_in(part) for part in typing.get_args(hint)]
        return next((part for part in found if part is not None), None)
    return None


def _has_keys(hint: Any) -> bool:
    """Whether any keys may stand below: ``Any``, ``dict``, ``dict | None``."""
    if isinstance(hint, types.UnionType):
        return any(_has_keys(part) for part in typing.get_args(hint))
    return hint is Any or _is_dict_of(hint)


def _is_dict_of(hint: Any) -> bool:
    return typing.get_origin(hint) is dict


def known_path(path: str, schema: type, sections: Mapping[str, type] | None = None) -> str | None:
    """What is wrong with a dotted key, or None if the schema has it.

    Args:
        path: e.g. ``model.optim.lr``.
        schema, sections: as in :func:`check`. Below an open field everything is accepted.
    """
    here: Any = schema
    done: list[str] = []
    words = path.split(".")
    while words:
        word = words.pop(0)
        fields = typing.get_type_hints(here)
        prefix = ".".join(done)
        if word not in fields:
            hint = nearest(word, fields)
            dotted = f"{prefix}." if prefix else ""
            return f"unknown key {path}{hint.replace('mean ', f'mean {dotted}')}"
        done.append(word)
        hint_type = fields[word]
        kind = (sections or {}).get(".".join(done)) or _dataclass_in(hint_type)
        if kind is None:
            scalar = not _has_keys(hint_type)
            return f"unknown key {path}: {'.'.join(done)} has no keys" if words and scalar else None
        if _is_dict_of(hint_type) and words:
            done.append(words.pop(0))
        here = kind
    return None
