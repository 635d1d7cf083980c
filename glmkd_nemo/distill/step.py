"""One distillation step: batch -> teachers -> student -> objective.

``DistillationStep`` is Megatron-Core's ``forward_step_func``; the schedule calls it once per
micro-batch and pipeline stage. On each stage:

1. every teacher runs this stage's layers, forward only, with messages of its own (``pipeline.py``);
2. the student runs, its wanted tensors tapped;
3. the parts whose student tensors live here are computed. The last stage returns their sum as the
   loss; an inner stage attaches it to its activation, so that the student's one backward pass
   through the schedule carries all gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor, nn

from glmkd_nemo.distill.method import Batch, StepContext, batch_of
from glmkd_nemo.distill.objective import Objective, WeightedPart
from glmkd_nemo.distill.pipeline import Links, activation_shape, attach, received_tap, tap_shape
from glmkd_nemo.distill.placement import home_of, stage_of
from glmkd_nemo.distill.taps import TapKey, record
from glmkd_nemo.distill.teachers import Teacher
from glmkd_nemo.models.config import GLMConfig


class DistillationStep:
    """Runs micro-batches of one optimizer step after another.

    Args:
        config: the student's.
        objective: the terms.
        teachers: by name.
    """

    def __init__(
        self, config: GLMConfig, objective: Objective, teachers: Mapping[str, Teacher]
    ) -> None:
        self.config, self.objective, self.teachers = config, objective, dict(teachers)
        self.stage = parallel_state.get_pipeline_model_parallel_rank()
        self.stages = parallel_state.get_pipeline_model_parallel_world_size()
        self.links = Links(self._pairs())
        self._parts: list[WeightedPart] = []
        self._values: dict[str, Tensor] = {}
        self._scale: Callable[[], float] = lambda: 1.0

    def _pairs(self) -> list[tuple[int, int]]:
        """Directed pairs of stages between which teachers' tensors can travel."""
        if not self.teachers:
            return []
        pairs = [(k, k + 1) for k in range(self.stages - 1)]
        return pairs + [(i, j) for i in range(self.stages) for j in range(i + 2, self.stages)]

    def start(self, context: StepContext, num_microbatches: int) -> None:
        """Prepares an optimizer step: the parts of this step and the scale of attached losses."""
        self._parts = self.objective.parts(context)
        self._values = {}
        grad_scale = self.config.grad_scale_func

        def scale() -> float:
            one = torch.ones((), device=torch.cuda.current_device())
            scaled = one if grad_scale is None else grad_scale(one)
            return float(scaled) / num_microbatches

        self._scale = scale
        self._num_microbatches = num_microbatches

    def __call__(self, data_iterator: Iterator[Mapping[str, Tensor]], model: nn.Module) -> Any:
        """Megatron-Core's ``forward_step_func``: the stage's output, and the loss function."""
        batch = batch_of(next(data_iterator))
        mine = [p for p in self._parts if home_of(p, self.config.split) == self.stage]
        taps_of = self._run_teachers(batch)
        want = {key for planned in mine for key in planned.part.student}
        with record(want, self.config.sequence_parallel) as student_taps:
            output = model(
                batch.input_ids,
                batch.position_ids,
                batch.attention_mask,
                materialize=False,
                task=batch.task,
            )
        loss = self._loss(mine, student_taps, taps_of, batch)
        if self.stage < self.stages - 1:
            output = output if loss is None else attach(output, loss, self._scale)
            return output, lambda x: (x, {})
        if loss is None:  # all terms of this step live on other stages
            loss = output.all().sum() * 0.0
        return loss, lambda x: (x, {})

    def _loss(
        self,
        mine: list[WeightedPart],
        student_taps: Mapping[TapKey, Any],
        taps_of: Mapping[str | None, Mapping[TapKey, Any]],
        batch: Batch,
    ) -> Tensor | None:
        total = None
        for planned in mine:
            value = planned.part.loss(student_taps, taps_of[planned.teacher], batch).mean()
            seen = self._values.get(planned.name)
            self._values[planned.name] = value.detach() + (0.0 if seen is None else seen)
            weighted = planned.weight * value
            total = weighted if total is None else total + weighted
        return total

    def _run_teachers(self, batch: Batch) -> dict[str | None, Mapping[TapKey, Any]]:
        found: dict[str | None, Mapping[TapKey, Any]] = {None: {}}
        for name, teacher in self.teachers.items():
            parts = [p for p in self._parts if p.teacher == name]
            if parts:  # a teacher that no term asks for in this step does not run
                found[name] = self._run_teacher(teacher, parts, batch)
        return found

    def _run_teacher(
        self, teacher: Teacher, parts: list[WeightedPart], batch: Batch
    ) -> dict[TapKey, Any]:
        """This stage of a teacher: its taps, and those that earlier stages send here."""
        split = teacher.config.split
        b, s = batch.input_ids.shape
        dtype = teacher.config.params_dtype
        needs = {
            (stage_of(key, split), home_of(planned, self.config.split), key)
            for planned in parts
            for key in planned.part.teacher
        }
        received = None
        if self.stage > 0:
            shape = activation_shape(teacher.config, b, s)
            received = self.links.receive(shape, dtype, self.stage - 1)
        want = {key for source, _, key in needs if source == self.stage}
        output, taps = teacher.forward(batch, want, received)
        if self.stage < self.stages - 1:
            self.links.send(output, self.stage + 1)
        routes = sorted((n for n in needs if n[0] != n[1]), key=str)
        for source, home, key in routes:
            if source == self.stage:
                self.links.send(taps[key].value, home)
        for source, home, key in routes:
            if home == self.stage:
                value = self.links.receive(tap_shape(key, teacher.config, b, s), dtype, source)
                taps[key] = received_tap(key, value)
        return taps

    def finish(self) -> dict[str, Tensor]:
        """Ends an optimizer step.

        Returns:
            Unweighted value of each part, averaged over micro-batches and data-parallel ranks and
            collected from all stages, and ``loss``, their weighted sum. The same on all ranks.
        """
        self.links.flush()
        zero = torch.zeros((), device=torch.cuda.current_device())
        values = torch.stack([self._values.get(p.name, zero).double() for p in self._parts])
        torch.distributed.all_reduce(
            values, group=parallel_state.get_pipeline_model_parallel_group()
        )
        torch.distributed.all_reduce(values, group=parallel_state.get_data_parallel_group())
        values /= self._num_microbatches * parallel_state.get_data_parallel_world_size()
        parts = {p.name: v for p, v in zip(self._parts, values, strict=True)}
        weights = torch.tensor([p.weight for p in self._parts], dtype=values.dtype)
        return {**parts, "loss": (values * weights.to(values.device)).sum()}
