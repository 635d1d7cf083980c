"""One distillation step: batch -> teachers -> student -> objective.

``DistillationStep`` is Megatron-Core's ``forward_step_func``; the schedule calls it once per
micro-batch and pipeline stage. On each stage:

1. every teacher runs this stage's layers, forward only, with messages of its own (``links.py``),
   or has done so already (``run_ahead.py``);
2. the student runs, its wanted tensors tapped; those that a later stage needs are given to it;
3. the parts at home here are computed. The last stage returns their sum as the loss; an inner
   stage attaches it to its activation, so that the student's one backward pass through the
   schedule carries all gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor, nn

from glmkd_nemo.distill.aggregator import Weights
from glmkd_nemo.distill.ahead_bounds import OFF, Bounds
from glmkd_nemo.distill.board import Board
from glmkd_nemo.distill.carry import tie
from glmkd_nemo.distill.combine import Valued, added, combined
from glmkd_nemo.distill.fused_parts import FusedParts
from glmkd_nemo.distill.lane import TeacherLane
from glmkd_nemo.distill.method import Batch, StepContext
from glmkd_nemo.distill.micro_batch import numbered
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.pipeline import attach
from glmkd_nemo.distill.routes import Routes
from glmkd_nemo.distill.run_ahead import RunAhead
from glmkd_nemo.distill.stand_in import standing_in
from glmkd_nemo.distill.taps import TapKey, record
from glmkd_nemo.distill.teachers import Teacher
from glmkd_nemo.distill.views import Views
from glmkd_nemo.distill.workspace import Workspace
from glmkd_nemo.models.config import GLMConfig


class DistillationStep:
    """Runs micro-batches of one optimizer step after another.

    Args:
        config: the student's.
        objective: the terms.
        teachers: by name.
        ahead: how far teachers may be ahead of the student, see ``run_ahead.py``.
    """

    def __init__(
        self,
        config: GLMConfig,
        objective: Objective,
        teachers: Mapping[str, Teacher],
        ahead: Bounds = OFF,
    ) -> None:
        self.config, self.objective, self.teachers = config, objective, dict(teachers)
        self.stage = parallel_state.get_pipeline_model_parallel_rank()
        self.last = parallel_state.get_pipeline_model_parallel_world_size() - 1
        self.routes = Routes(config, objective, bool(teachers))
        lanes = {n: TeacherLane(n, t, self.routes) for n, t in self.teachers.items()}
        self.ahead = RunAhead(config, objective, self.routes, lanes, ahead)
        self._scale: Callable[[], Tensor] = lambda: torch.ones(())
        self._space = Workspace(config.fused_head_rows)

    @property
    def batch_factor(self) -> int:
        """How many times larger a micro-batch is inside the models than outside."""
        return self.objective.batch_factor

    def start(self, context: StepContext, num_microbatches: int) -> None:
        """Prepares a pass over the micro-batches of an optimizer step."""
        self._context, self._num_microbatches, self._seen = context, num_microbatches, 0
        parts = self.objective.parts(context)
        self.routes.plan(parts)
        self._board = Board([p.name for p in parts], self.objective.extras)
        self._collected: dict[str, Tensor] | None = None
        self._stand_ins = self.objective.replacements(context)
        grad_scale = self.config.grad_scale_func

        def scale() -> Tensor:  # stays on the device: reading it would wait for the backward
            one = torch.ones((), device=torch.cuda.current_device())
            scaled = one if grad_scale is None else grad_scale(one)
            return scaled.double() / num_microbatches

        self._scale = scale

    def __call__(self, data_iterator: Iterator[Mapping[str, Any]], model: nn.Module) -> Any:
        """Megatron-Core's ``forward_step_func``: the stage's output, and the loss function."""
        context = self._next_micro_batch()
        micro, theirs = self.ahead.take(next(data_iterator), context, model)
        batches, whole, sizes = micro.batches, micro.whole, micro.sizes
        taps_of = {None: Views({}, sizes)} | {n: Views(taps, sizes) for n, taps in theirs.items()}
        with (
            standing_in(model, self._stand_ins, self.teachers),
            record(self.routes.student_want, self.config.sequence_parallel, micro.edits) as taps,
        ):
            output = model(
                whole.input_ids,
                whole.position_ids,
                whole.attention_mask,
                materialize=False,
                task=whole.task,
            )
        taken = self.routes.take_taps(whole)
        student = Views({**taps, **taken}, sizes)
        if self.stage < self.last:
            values = self._values(student, taps_of, batches, None)
            return self._inner(output, taps, values, list(taken.values()), context)
        weights = self._weights(student, taps_of, batches[0], context)
        fused = FusedParts(self._space, weights, self._order)
        values = self._values(student, taps_of, batches, fused)
        values += (from_before := self.routes.take_values(sizes))
        loss = added(combined(values, weights, self._order), self._of_fused(fused))
        if loss is None:  # all terms of this step live on other stages
            loss = output.all().sum() * 0.0
        self._board.add("loss", loss)
        taken_here = [tap.value for tap in taken.values()] + [value for _, value in from_before]
        return tie(loss, taken_here), lambda x: (x, {})

    def _next_micro_batch(self) -> StepContext:
        self._seen += 1
        return numbered(self._context, self._seen - 1, self._num_microbatches)

    @property
    def _order(self) -> list[str]:
        return list(self.objective.teachers)

    def _values(
        self,
        student: Views,
        taps_of: Mapping[str | None, Views],
        batches: list[Batch],
        fused: FusedParts | None,
    ) -> list[Valued]:
        """Values ``[b]`` of the parts at home on this stage, but for those that ``fused`` takes."""
        found = []
        for planned in self.routes.mine:
            view = planned.part.view
            mine, theirs = student[view], taps_of[planned.teacher][view]
            if fused is not None and fused.takes(planned, mine, theirs, batches[view]):
                continue
            value = planned.part.loss(mine, theirs, batches[view])
            self._board.add(planned.name, value.mean())
            found.append((planned, value))
        return found

    def _of_fused(self, fused: FusedParts) -> Tensor | None:
        total, values = fused.losses()
        for name, value in values.items():
            self._board.add(name, value.mean())
        return total

    def _inner(
        self,
        output: Tensor,
        taps: Mapping[TapKey, Any],
        values: list[Valued],
        taken: list[Any],
        context: StepContext,
    ) -> Any:
        """Output of a stage before the last: losses attached, tensors given to later stages."""
        here = [(p, v) for p, v in values if not self.routes.travels(p)]
        loss = combined(here, self._fixed_weights(context), self._order)
        if loss is not None:
            self._board.add("loss", loss)
            output = attach(output, loss, self._scale)
        output = tie(output, [tap.value for tap in taken])
        output = self.routes.give(output, taps, [v for p, v in values if self.routes.travels(p)])
        return output, lambda x: (x, {})

    def _fixed_weights(self, context: StepContext) -> Weights | None:
        aggregator = self.objective.aggregator
        if aggregator is None:
            return None
        factors = aggregator.intermediate(context) if aggregator.fixed_intermediate else ()
        return Weights(factors, factors)

    def _weights(
        self,
        student: Views,
        taps_of: Mapping[str | None, Views],
        batch: Batch,
        context: StepContext,
    ) -> Weights | None:
        if self.objective.aggregator is None:
            return None
        teachers = [taps_of[name][0] for name in self._order]
        weights = self.objective.aggregator.weights(student[0], teachers, batch, context)
        for name, loss in weights.extra.items():
            self._board.add(f"aggregator/{name}", loss.mean())
        return weights

    def end(self) -> None:
        """Ends a pass; after the last one of a step, methods that ask for its values get them."""
        self.routes.links.flush()
        self.ahead.finish()
        last = self._context.forward_pass == self.objective.passes - 1
        if last and self.objective.observes:
            self.objective.observe(self._context, self.values())

    def values(self) -> dict[str, Tensor]:
        """Values of the pass that has ended; all ranks call it (a reduction, which is waited for).

        Returns:
            Unweighted value of each part, averaged over micro-batches and data-parallel ranks and
            collected from all stages, and ``loss``, their weighted sum; in the host's memory. The
            same on all ranks.
        """
        if self._collected is None:
            self._collected = self._board.collect(self._num_microbatches)
        return self._collected

    def finish(self) -> dict[str, Tensor]:
        """Ends a pass; its :meth:`values`."""
        self.end()
        return self.values()
