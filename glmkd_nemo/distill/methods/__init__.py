"""Distillation methods, one paper each, and the table that finds them by name."""

from __future__ import annotations

import importlib
import pkgutil

from glmkd_nemo.distill.hint import did_you_mean
from glmkd_nemo.distill.method import Method

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    if name not in NAMES:
        hint = did_you_mean(name, NAMES)
        raise ValueError(f"no method is called {name!r}; there are {', '.join(NAMES)}.{hint}")
    module = importlib.import_module(f"{__name__}.{name}")
    found: type[Method] = module.METHOD
    return found
