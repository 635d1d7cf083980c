"""The objective: a sum of terms, each a method with a weight, a schedule and a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from glmkd_nemo.distill import schedules
from glmkd_nemo.distill.aggregator import Aggregator
from glmkd_nemo.distill.aggregators import aggregator_from_dict
from glmkd_nemo.distill.hint import did_you_mean
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.pipeline import replicated_tensors
from glmkd_nemo.distill.random_data import random_data_from_dict, seen
from glmkd_nemo.distill.taps import Edits, check_keys
from glmkd_nemo.distill.terms import TermConfig, term_from_dict

__all__ = ["Objective", "TermConfig", "WeightedPart", "term_from_dict"]


@dataclass(frozen=True)
class WeightedPart:
    """A loss part of this step: ``name`` is ``term/part``, ``weight`` is that of now."""

    name: str
    weight: float
    part: Part
    teacher: str | None


class Objective(nn.Module):
    """All terms. Its parameters are those of the methods (projections) and of the aggregator.

    Args:
        terms: by name. With an aggregator, a term whose method needs a teacher and that names none
            becomes one term for each teacher, called ``term@teacher``.
        student: sizes of the student.
        teachers: sizes of the teachers, by name.
        seed: initialises the methods' parameters, alike on all ranks.
        aggregator: ``distill.aggregator``: name and options of what combines several teachers.
        random_data: ``distill.random_data``: options of perturbed inputs.

    Raises:
        ValueError: no term at all, or a method that does not fit these models.
    """

    def __init__(
        self,
        terms: Mapping[str, TermConfig],
        student: ModelShape,
        teachers: Mapping[str, ModelShape],
        seed: int = 0,
        aggregator: Mapping[str, Any] | None = None,
        random_data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError("distill.terms is empty: choose a method, for instance method=kd.")
        self.teachers = dict(teachers)
        self.student = student
        self.aggregator: Aggregator | None = None
        self.random_data = None if random_data is None else random_data_from_dict(random_data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if aggregator is not None:
                shapes = list(self.teachers.values())
                self.aggregator = aggregator_from_dict(aggregator, student, shapes)
            self.terms = _expanded(terms, self._teaching())
            self.methods = nn.ModuleDict({n: self._build(t) for n, t in self.terms.items()})
        self._tell_expanded_apart()
        self._check()

    def _teaching(self) -> list[str]:
        """Names of the teachers for which terms that name none are expanded."""
        names = list(self.teachers)
        return names if self.aggregator is None else [names[i] for i in self.aggregator.taught_by]

    def _build(self, term: TermConfig) -> Method:
        teacher = self.teachers[term.teacher] if term.teacher is not None else None
        return method_class(term.method)(term.options, self.student, teacher)

    def _tell_expanded_apart(self) -> None:
        """Methods of one term for several teachers learn their place, and share what they say."""
        for name in self.terms:
            siblings = self._instances(base_of(name))
            method = self._method(name)
            method.place = siblings.index(method), len(siblings)
            for shared in method.shared:
                setattr(method, shared, getattr(siblings[0], shared))

    def _check(self) -> None:
        bases = {base_of(name) for name in self.terms}
        for name, term in self.terms.items():
            if term.after is not None and term.after not in bases:
                hint = did_you_mean(term.after, bases)
                raise ValueError(f"distill.terms.{name} waits for {term.after!r}, no term.{hint}")
        if self.random_data is not None and self._method_views() > 1:
            raise ValueError(
                "distill.random_data cannot be combined with a method that sees a batch several "
                "times itself (diito): choose one of the two."
            )
        for planned in self.possible_parts():
            check_keys(planned.part.student, self.student.layers)
            if planned.teacher is not None:
                check_keys(planned.part.teacher, self.teachers[planned.teacher].layers)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Nothing: the weights of a student do not include what distils it."""
        return {}

    def replicated_state(self, prefix: str) -> dict[str, Any]:
        """Parameters and buffers as sharded tensors; every rank has them all, one writes them."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return replicated_tensors(own, prefix)

    def _method_views(self) -> int:
        return max(self._method(name).views for name in self.terms)

    @property
    def batch_factor(self) -> int:
        """How many times larger a micro-batch is inside the models than outside."""
        return self._method_views() if self.random_data is None else self.random_data.copies

    def views_of(self, batch: Batch, context: StepContext) -> list[Batch]:
        """The views of a micro-batch, to be stacked for one forward pass."""
        if self.random_data is None:
            return [batch] * self._method_views()
        draws = context.draws("random data", context.step, context.micro_batch)
        return seen(batch, self.random_data, draws, self.student.vocab)

    @property
    def extras(self) -> list[str]:
        """Names of the aggregator's own losses."""
        own = () if self.aggregator is None else self.aggregator.extras
        return [f"aggregator/{name}" for name in own]

    @property
    def passes(self) -> int:
        """How many times a step goes over its micro-batches, see ``Method.passes``."""
        return max(self._method(name).passes for name in self.terms)

    def parts(self, context: StepContext) -> list[WeightedPart]:
        """The parts of this step with their weights; terms whose weight is 0 now are left out."""
        found: list[WeightedPart] = []
        for name, weight in self._active(context).items():
            found += self._named(name, weight, self._method(name).parts(context))
        found += self._seen_again(found)
        if not found and not self.replacements(context):
            raise ValueError(
                f"no term is active at {context.progress:.1%} of training: let the schedules of "
                "distill.terms cover it."
            )
        return found

    def _seen_again(self, parts: list[WeightedPart]) -> list[WeightedPart]:
        """The same parts on a micro-batch that is seen again, perturbed or not."""
        times = 0 if self.random_data is None else self.random_data.extra
        return [
            replace(planned, name=f"{planned.name}~{view}", part=replace(planned.part, view=view))
            for view in range(1, times + 1)
            for planned in parts
        ]

    def possible_parts(self) -> list[WeightedPart]:
        """Parts whose taps cover those of every step, for placing layers before training."""
        return [
            planned
            for name, term in self.terms.items()
            for planned in self._named(name, term.weight, self._method(name).possible_parts())
        ]

    def edits(self, context: StepContext, batch: Batch) -> tuple[Edits, dict[str, Edits]]:
        """Edits of the student, and of the teachers by name, for one micro-batch."""
        student: dict[Any, Any] = {}
        teachers: dict[str, Edits] = {}
        for name in self._active(context):
            mine, theirs = self._method(name).edits(context, batch)
            check_keys(mine, self.student.layers)
            student |= mine  # those of one term for several teachers are the same
            teacher = self.terms[name].teacher
            if theirs and teacher is not None:
                teachers[teacher] = {**teachers.get(teacher, {}), **theirs}
        return student, teachers

    def replacements(self, context: StepContext) -> dict[int, tuple[str, range]]:
        """Student layers in whose place a teacher's layers run in this step."""
        found = {}
        for name in self._active(context):
            teacher = self.terms[name].teacher
            if teacher is not None:
                pairs = self._method(name).replacements(context)
                found.update({layer: (teacher, layers) for layer, layers in pairs.items()})
        return found

    def possible_replacements(self) -> dict[str, dict[int, range]]:
        """All that may ever be replaced, by teacher."""
        found: dict[str, dict[int, range]] = {}
        for name, term in self.terms.items():
            if term.teacher is not None:
                pairs = self._method(name).possible_replacements()
                found.setdefault(term.teacher, {}).update(pairs)
        return {teacher: pairs for teacher, pairs in found.items() if pairs}

    @property
    def observes(self) -> bool:
        """Whether a method asks for the values of every step."""
        return any(type(self._method(n)).observe is not Method.observe for n in self.terms)

    def observe(self, context: StepContext, values: Mapping[str, torch.Tensor]) -> None:
        """Hands the parts' values of a finished step to the methods, under the parts' own names.

        Only those that look are asked for: reading a value waits for the device.
        """
        for name in self.terms:
            method, prefix = self._method(name), f"{name}/"
            if type(method).observe is not Method.observe:
                mine = {n: v for n, v in values.items() if n.startswith(prefix)}
                own = {n.removeprefix(prefix): float(v) for n, v in mine.items()}
                method.observe(context, own)

    def _active(self, context: StepContext) -> dict[str, float]:
        """Weights of the terms that count in this step."""
        found = {}
        for name, term in self.terms.items():
            weight = term.weight * schedules.factor(term.schedule, context.progress)
            first = [] if term.after is None else self._instances(term.after)
            if weight != 0.0 and all(method.done(context) for method in first):
                found[name] = weight
        return found

    def _instances(self, base: str) -> list[Method]:
        return [self._method(name) for name in self.terms if base_of(name) == base]

    def _method(self, name: str) -> Method:
        method = self.methods[name]
        assert isinstance(method, Method)
        return method

    def _named(self, name: str, weight: float, parts: list[Part]) -> list[WeightedPart]:
        teacher = self.terms[name].teacher
        return [WeightedPart(f"{name}/{p.name}", weight * p.weight, p, teacher) for p in parts]


def base_of(name: str) -> str:
    """The term's name in the configuration: ``rail_kd`` for ``rail_kd@t0``."""
    return name.partition("@")[0]


def _expanded(terms: Mapping[str, TermConfig], teachers: list[str]) -> dict[str, TermConfig]:
    found: dict[str, TermConfig] = {}
    for name, term in terms.items():
        if term.teacher is None and method_class(term.method).needs_teacher:
            found |= {f"{name}@{t}": replace(term, teacher=t) for t in teachers}
        else:
            found[name] = term
    return found
