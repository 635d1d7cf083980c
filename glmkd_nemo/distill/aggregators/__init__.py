"""Aggregators of several teachers, one paper each, and the table that finds them by name."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from glmkd_nemo.distill.aggregator import Aggregator
from glmkd_nemo.distill.hint import did_you_mean

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def aggregator_class(name: str) -> type[Aggregator]:
    """The class of an aggregator.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    if name not in NAMES:
        hint = did_you_mean(name, NAMES)
        raise ValueError(f"no aggregator is called {name!r}; there are {', '.join(NAMES)}.{hint}")
    found: type[Aggregator] = importlib.import_module(f"{__name__}.{name}").AGGREGATOR
    return found


def aggregator_from_dict(
    node: Mapping[str, Any], student: Any, teachers: Sequence[Any]
) -> Aggregator:
    """Builds the aggregator that ``distill.aggregator`` describes: ``name`` and its options.

    Raises:
        ValueError: no or an unknown name, or an unknown option, with the nearest known one.
    """
    options = dict(node)
    name = options.pop("name", None)
    if name is None:
        raise ValueError("distill.aggregator has no name: add `name: mean` or another one.")
    cls = aggregator_class(name)
    known = [f.name for f in dataclasses.fields(cls.Config)]
    for key in options:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ValueError(f"distill.aggregator ({name}) has no key {key!r}.{hint}")
    return cls(cls.Config(**options), student, teachers)
