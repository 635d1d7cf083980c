"""Distillation methods, one paper each, and the table that finds them by name."""

from __future__ import annotations

import importlib

from glmkd_nemo.distill.method import Method

NAMES = ("glmd", "hard", "kd", "tinybert")


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    import difflib

    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no method is called {name!r}; there are {', '.join(NAMES)}.{hint}")
    module = importlib.import_module(f"{__name__}.{name}")
    found: type[Method] = module.METHOD
    return found
