"""What can be measured: the recipes of ``conf/method`` and ``conf/aggregator``, and a few parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
# recipes that have another model than the benchmark's, or terms of tasks only
LEFT_OUT = ("glmd_vc", "combination_ft", "combination_ft1", "combination_ft2", "task_kd")
LEFT_OUT += ("soft_labels",)
# options that a width of 256 needs; 32 relation heads are those of the reference's measurement
OPTIONS: dict[str, dict[str, Any]] = {"minilmv2": {"relation_heads": 32}}
# terms by themselves: name -> recipe and the terms of it that stay
PARTIAL = {"kd_soft": ("kd", ("kd",)), "hard": ("kd", ("hard",))}


@dataclass(frozen=True)
class Recipe:
    """A section ``model.distill`` and its teachers, all of one size."""

    name: str
    distill: dict[str, Any]
    teachers: tuple[str, ...]


def groups() -> dict[str, str]:
    """Directory of ``conf`` by recipe, of all that can be measured."""
    found = {
        path.stem: group
        for group in ("method", "aggregator")
        for path in sorted((CONF / group).glob("*.yaml"))
        if path.stem not in LEFT_OUT
    }
    return {**dict.fromkeys(PARTIAL, "method"), **found}


def used(name: str) -> tuple[set[str], set[str]]:
    """Methods and aggregators of a recipe, by its file alone."""
    source, kept = PARTIAL.get(name, (name, None))
    found = yaml.safe_load((CONF / groups()[name] / f"{source}.yaml").read_text())
    terms = {n: t for n, t in found.get("terms", {}).items() if kept is None or n in kept}
    own = found.get("aggregator")
    members = [own, *own.get("members", [])] if own else []
    return {term["method"] for term in terms.values()}, {m["name"] for m in members}


def read(names: Sequence[str], layers: tuple[int, int], hidden: int, heads: int) -> list[Recipe]:
    """Recipes as the configuration gives them. Imports NeMo: run it in a process of its own.

    Args:
        names: of :func:`groups`.
        layers: of student and teacher.
        hidden, heads: of both.

    Raises:
        ValueError: an unknown name, or a recipe that does not fit these models.
    """
    from glmkd_nemo.compare import recipes
    from glmkd_nemo.distill.hint import did_you_mean

    known = groups()
    found = []
    for name in names:
        if name not in known:
            raise ValueError(f"no recipe is called {name!r}.{did_you_mean(name, known)}")
        source, kept = PARTIAL.get(name, (name, None))
        entry = recipes.Entry(known[name], source)
        several = entry.group == "aggregator"
        teachers = ("t0", "t1") if several else ("t0",)
        shape = (layers[1], hidden, heads, 1)
        student = [(layers[0], hidden, heads, 1)]
        fits = dict.fromkeys(teachers, shape)
        distill = dict(recipes.read(entry, OPTIONS, student, fits)["distill"])
        if kept is not None:
            distill["terms"] = {n: distill["terms"][n] for n in kept}
        found.append(Recipe(name, distill, teachers if name != "hard" else ()))
    return found


def read_apart(names: Sequence[str], size: Any) -> dict[str, Recipe]:
    """:func:`read` in a process of its own, by name."""
    from glmkd_nemo.demo.process import run_apart

    layers = (size.student_layers, size.teacher_layers)
    module = "scripts.bench.recipes.read"
    found = run_apart(module, list(names), layers, size.hidden, size.heads) if names else []
    return {recipe.name: recipe for recipe in found}
