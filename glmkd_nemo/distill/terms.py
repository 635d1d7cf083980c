"""One term of the objective as the configuration writes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from glmkd_nemo.distill import schedules
from glmkd_nemo.distill.hint import did_you_mean
from glmkd_nemo.distill.method import Method
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.schedules import ScheduleConfig


@dataclass
class TermConfig:
    """One term of the objective; the options of its method stand beside these keys in YAML.

    Attributes:
        method: name of a method.
        weight: factor on the mean of its per-sample values.
        teacher: name of a teacher, needed where there are several.
        schedule: how the weight changes during training.
        after: name of a term whose method must be done (``Method.done``) before this one starts.
        options: the method's own configuration.
    """

    method: str
    weight: float = 1.0
    teacher: str | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    after: str | None = None
    options: Any = None


def with_answers(terms: Mapping[str, Mapping[str, Any]], answers: str) -> dict[str, dict[str, Any]]:
    """Entries of ``distill.terms`` for one task.

    Args:
        terms: those that say ``of: answers`` are of whatever the task asks for.
        answers: what that is: ``tokens`` or ``classes``.
    """
    own = {name: dict(term) for name, term in terms.items()}
    for term in own.values():
        if term.get("of") == "answers":
            term["of"] = answers
    return own


def term_from_dict(
    name: str, node: Mapping[str, Any], teachers: Iterable[str], aggregated: bool = False
) -> TermConfig:
    """Reads one entry of ``distill.terms``.

    Args:
        name: the entry's key.
        node: its keys and values.
        teachers: names of the teachers there are.
        aggregated: whether ``distill.aggregator`` is set; a term that names no teacher is then
            one for each of them.

    Raises:
        ValueError: an unknown method, key or teacher, each with the nearest known one.
    """
    where = f"distill.terms.{name}"
    values = dict(node)
    if "method" not in values:
        raise ValueError(f"{where} names no method: add `method: kd` or another one.")
    cls = method_class(values["method"])
    own = {f.name: f for f in dataclasses.fields(TermConfig) if f.name != "options"}
    options = {f.name for f in dataclasses.fields(cls.Config)}
    for key in values:
        if key not in own and key not in options:
            hint = did_you_mean(key, [*own, *options])
            raise ValueError(f"{where} has no key {key!r} ({values['method']}).{hint}")
    return TermConfig(
        method=values["method"],
        weight=float(values.get("weight", 1.0)),
        teacher=_teacher_of(where, values.get("teacher"), cls, list(teachers), aggregated),
        schedule=schedules.from_dict(values.get("schedule") or {}),
        after=values.get("after"),
        options=cls.Config(**{k: v for k, v in values.items() if k in options}),
    )


def _teacher_of(
    where: str, named: str | None, cls: type[Method], teachers: list[str], aggregated: bool
) -> str | None:
    if not cls.needs_teacher or (aggregated and named is None and teachers):
        return None
    if named is None and len(teachers) == 1:
        return teachers[0]
    if named not in teachers:
        there_are = ", ".join(teachers) or "none: set model.teachers.t0.restore_from_path=x.nemo"
        asked = "names no teacher" if named is None else f"asks for teacher {named!r}"
        raise ValueError(f"{where} {asked}; there are {there_are}.")
    return named


def terms_from_dict(node: Mapping[str, Any], teachers: Iterable[str]) -> dict[str, TermConfig]:
    """Reads ``terms`` of the section ``distill``.

    Args:
        node: the section; ``aggregator`` decides whether a term may name no teacher.
        teachers: names of the teachers there are.

    Raises:
        ValueError: as :func:`term_from_dict`.
    """
    several = bool(node.get("aggregator"))
    names = list(teachers)
    terms = node.get("terms") or {}
    return {str(n): term_from_dict(str(n), t, names, several) for n, t in terms.items()}


def teachers_of(terms: Mapping[str, TermConfig], teachers: Iterable[str]) -> set[str]:
    """Names of the teachers that the terms use."""
    named = {term.teacher for term in terms.values() if term.teacher is not None}
    unnamed = any(
        term.teacher is None and method_class(term.method).needs_teacher for term in terms.values()
    )
    return named | (set(teachers) if unnamed else set())
