"""Who computes what, and which tensors travel between pipeline stages for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.distill.carry import Form, give, take
from glmkd_nemo.distill.combine import Valued
from glmkd_nemo.distill.links import Links
from glmkd_nemo.distill.method import Batch
from glmkd_nemo.distill.objective import Objective, WeightedPart
from glmkd_nemo.distill.pipeline import received_tap, tap_dtype, tap_shape, viewless
from glmkd_nemo.distill.placement import home_of, stage_of
from glmkd_nemo.distill.taps import Tap, TapKey
from glmkd_nemo.models.config import GLMConfig

Route = tuple[int, int, TapKey]  # from stage, to stage, what


class Routes:
    """The messages of a step, planned alike on every stage.

    Args:
        config: the student's.
        objective: the terms.
        teachers: whether there are any.

    Attributes:
        links, teacher_links: messages of the student's tensors, and of the teachers'.
        mine: the parts that are at home on this stage.
        student_want: taps of the student's layers on this stage that somebody needs.
    """

    def __init__(self, config: GLMConfig, objective: Objective, teachers: bool) -> None:
        self.config, self.objective = config, objective
        self.stage = parallel_state.get_pipeline_model_parallel_rank()
        self.last = parallel_state.get_pipeline_model_parallel_world_size() - 1
        pairs = [(i, j) for i in range(self.last + 1) for j in range(i + 1, self.last + 1)]
        carried = pairs + [(j, i) for i, j in pairs] if self._carries() else []
        self.links = Links(carried)
        # apart: teachers may be ahead of their student, each stage in its own way
        self.teacher_links = Links(pairs if teachers else [])
        self.parts: list[WeightedPart] = []
        self.mine: list[WeightedPart] = []
        self.student_want: set[TapKey] = set()
        self._student: list[Route] = []

    def _carries(self) -> bool:
        """Whether student tensors ever have to reach another stage."""
        aggregator = self.objective.aggregator
        if aggregator is not None and not aggregator.fixed_intermediate:
            return True
        return any(
            stage_of(key, self.config.split) != home_of(planned, self.config.split)
            for planned in self.objective.possible_parts()
            for key in planned.part.student
        )

    def plan(self, parts: Sequence[WeightedPart]) -> None:
        """Takes the parts of a step."""
        self.parts = list(parts)
        split, aggregator = self.config.split, self.objective.aggregator
        self.mine = [p for p in self.parts if self.home(p) == self.stage]
        needs = {
            (stage_of(key, split), self.home(planned), key)
            for planned in self.parts
            for key in planned.part.student
        }
        self._student = sorted((n for n in needs if n[0] != n[1]), key=str)
        self.student_want = {key for source, _, key in needs if source == self.stage}
        if aggregator is not None and self.stage == self.last:
            self.student_want |= set(aggregator.student_keys)

    def home(self, planned: WeightedPart) -> int:
        """The stage that computes a part."""
        return home_of(planned, self.config.split)

    def travels(self, planned: WeightedPart) -> bool:
        """Whether a part's value goes to the last stage, where its weight is decided."""
        aggregator = self.objective.aggregator
        if aggregator is None or planned.teacher is None or aggregator.fixed_intermediate:
            return False
        return self.home(planned) < self.last

    def teacher_needs(
        self, teacher: str, split: list[int], parts: Sequence[WeightedPart]
    ) -> set[Route]:
        """Where each tensor of a teacher that ``parts`` need is, and which stage wants it."""
        found = {
            (stage_of(key, split), self.home(planned), key)
            for planned in parts
            if planned.teacher == teacher
            for key in planned.part.teacher
        }
        if self.objective.aggregator is not None and parts:
            found |= {(self.last, self.last, key) for key in self.objective.aggregator.teacher_keys}
        return found

    def take_taps(self, batch: Batch) -> dict[TapKey, Tap]:
        """Receives the student tensors of earlier stages that parts at home here need."""
        b, s = batch.input_ids.shape
        found: dict[TapKey, Tap] = {}
        for source in range(self.stage):
            keys = [k for i, j, k in self._student if (i, j) == (source, self.stage)]
            forms = [Form(tap_shape(k, self.config, b, s), tap_dtype(k, self.config)) for k in keys]
            if forms:
                taken = take(forms, self.links, source)
                found |= {k: received_tap(k, x) for k, x in zip(keys, taken, strict=True)}
        return found

    def take_values(self, sizes: Sequence[int]) -> list[Valued]:
        """Receives values of parts of earlier stages whose weights are decided on the last."""
        found: list[Valued] = []
        dtype = torch.promote_types(self.config.params_dtype, torch.float32)
        for source in range(self.last):
            theirs = [p for p in self.parts if self.home(p) == source and self.travels(p)]
            forms = [Form((sizes[p.part.view],), dtype) for p in theirs]
            if forms:
                found += list(zip(theirs, take(forms, self.links, source), strict=True))
        return found

    def give(self, output: Tensor, taps: Mapping[TapKey, Any], values: list[Tensor]) -> Tensor:
        """Sends on what later stages need of this one; the output carries the gradients back."""
        for to in range(self.stage + 1, self.last + 1):
            keys = [k for i, j, k in self._student if (i, j) == (self.stage, to)]
            given = [taps[key].value for key in keys]
            if given:
                output = give(output, given, self.links, to)
        if values:
            output = give(output, values, self.links, self.last)
        return viewless(output)
