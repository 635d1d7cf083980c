"""The objective: a sum of terms, each a method with a weight, a schedule and a teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from glmkd_nemo.distill import schedules
from glmkd_nemo.distill.hint import did_you_mean
from glmkd_nemo.distill.method import Method, ModelShape, Part, StepContext
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.pipeline import replicated_tensors
from glmkd_nemo.distill.schedules import ScheduleConfig
from glmkd_nemo.distill.taps import check_keys


@dataclass
class TermConfig:
    """One term of the objective; the options of its method stand beside these keys in YAML.

    Attributes:
        method: name of a method.
        weight: factor on the mean of its per-sample values.
        teacher: name of a teacher, needed where there are several.
        schedule: how the weight changes during training.
        options: the method's own configuration.
    """

    method: str
    weight: float = 1.0
    teacher: str | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    options: Any = None


@dataclass(frozen=True)
class WeightedPart:
    """A loss part of this step: ``name`` is ``term/part``, ``weight`` is that of now."""

    name: str
    weight: float
    part: Part
    teacher: str | None


def term_from_dict(name: str, node: Mapping[str, Any], teachers: Iterable[str]) -> TermConfig:
    """Reads one entry of ``distill.terms``.

    Args:
        name: the entry's key.
        node: its keys and values.
        teachers: names of the teachers there are.

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
        teacher=_teacher_of(where, values.get("teacher"), cls, list(teachers)),
        schedule=schedules.from_dict(values.get("schedule") or {}),
        options=cls.Config(**{k: v for k, v in values.items() if k in options}),
    )


def _teacher_of(
    where: str, named: str | None, cls: type[Method], teachers: list[str]
) -> str | None:
    if not cls.needs_teacher:
        return None
    if named is None and len(teachers) == 1:
        return teachers[0]
    if named not in teachers:
        there_are = ", ".join(teachers) or "none: set model.teachers.t0.restore_from_path=x.nemo"
        asked = "names no teacher" if named is None else f"asks for teacher {named!r}"
        raise ValueError(f"{where} {asked}; there are {there_are}.")
    return named


class Objective(nn.Module):
    """All terms. Its parameters are those of the methods (projections).

    Args:
        terms: by name.
        student: sizes of the student.
        teachers: sizes of the teachers, by name.
        seed: initialises the methods' parameters, alike on all ranks.

    Raises:
        ValueError: no term at all, or a method that does not fit these models.
    """

    def __init__(
        self,
        terms: Mapping[str, TermConfig],
        student: ModelShape,
        teachers: Mapping[str, ModelShape],
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError("distill.terms is empty: choose a method, for instance method=kd.")
        self.terms = dict(terms)
        self.teachers = dict(teachers)
        self.student = student
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.methods = nn.ModuleDict({n: self._build(t) for n, t in self.terms.items()})
        for planned in self.possible_parts():
            check_keys(planned.part.student, student.layers)
            if planned.teacher is not None:
                check_keys(planned.part.teacher, self.teachers[planned.teacher].layers)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Nothing: the weights of a student do not include what distils it."""
        return {}

    def replicated_state(self, prefix: str) -> dict[str, Any]:
        """Parameters as sharded tensors; every rank has them all, and one of them writes."""
        return replicated_tensors(dict(self.named_parameters()), prefix)

    def _build(self, term: TermConfig) -> Method:
        teacher = self.teachers[term.teacher] if term.teacher is not None else None
        return method_class(term.method)(term.options, self.student, teacher)

    def parts(self, context: StepContext) -> list[WeightedPart]:
        """The parts of this step with their weights; terms whose weight is 0 now are left out."""
        found: list[WeightedPart] = []
        for name, term in self.terms.items():
            weight = term.weight * schedules.factor(term.schedule, context.progress)
            if weight != 0.0:
                found += self._named(name, weight, self._method(name).parts(context))
        if not found:
            raise ValueError(
                f"no term is active at {context.progress:.1%} of training: let the schedules of "
                "distill.terms cover it."
            )
        return found

    def possible_parts(self) -> list[WeightedPart]:
        """Parts whose taps cover those of every step, for placing layers before training."""
        return [
            planned
            for name, term in self.terms.items()
            for planned in self._named(name, term.weight, self._method(name).possible_parts())
        ]

    def _method(self, name: str) -> Method:
        method = self.methods[name]
        assert isinstance(method, Method)
        return method

    def _named(self, name: str, weight: float, parts: list[Part]) -> list[WeightedPart]:
        teacher = self.terms[name].teacher
        return [WeightedPart(f"{name}/{p.name}", weight * p.weight, p, teacher) for p in parts]
