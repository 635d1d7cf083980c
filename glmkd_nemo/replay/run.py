"""Runs one case on the real path: Megatron-Core's schedule, DDP and gradient reduction."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import from_original, load_whole, to_original
from glmkd_nemo.distill.gather import whole_gradients, whole_logits
from glmkd_nemo.distill.mapped_input import read_by
from glmkd_nemo.distill.method import Batch, ModelShape, StepContext, batch_of
from glmkd_nemo.distill.micro_batch import Pass
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.passes import run_passes
from glmkd_nemo.distill.pipeline import sum_over_stages
from glmkd_nemo.distill.placement import place_teacher
from glmkd_nemo.distill.stand_in import standing_in
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import LiveTeachers, Teacher
from glmkd_nemo.distill.terms import terms_from_dict
from glmkd_nemo.engine import schedule
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.replay import tasks
from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.flags.predictions import hard_loss
from glmkd_nemo.replay.recorded import recorded_context, stand_ins_of


@dataclass
class Outcome:
    """What a run gave, on rank 0: whole tensors, original names.

    ``values``: the loss parts by our names, unweighted, and ``loss``; ``weights``: by part.
    """

    values: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    logits: dict[str, Tensor] = field(default_factory=dict)


def run_case(
    case: Case,
    sequence_parallel: bool = False,
    dtype: torch.dtype = torch.float32,
    recompute: str | None = None,
) -> list[Outcome]:
    """Forward and backward of each step of a case in the parallel layout that is initialised.

    Every rank must call it; the outcomes are complete on rank 0.
    """
    parallel = {
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
        "sequence_parallel": sequence_parallel,
    }
    first = case.steps[0]
    state, sizes = first.student()
    config = _config({**sizes, "activations_checkpoint_granularity": recompute}, parallel)
    objective = _objective(first, sizes, dtype)
    teachers = _teachers(first, objective, config, parallel, dtype)
    student = _model(first, config, state, dtype, sizes)
    student.add_module("distill", objective)
    live = {name: teacher.model for name, teacher in teachers.items() if teacher.trainable}
    student.add_module("live_teachers", LiveTeachers(live))
    student.train()
    ddp = DistributedDataParallel(config, DistributedDataParallelConfig(), student)
    step = DistillationStep(config, objective, teachers)
    return [_one_step(case, step, ddp, dtype) for case in case.steps]


def _one_step(case: Case, step: DistillationStep, ddp: Any, dtype: torch.dtype) -> Outcome:
    context, objective, student = recorded_context(case), step.objective, ddp.module
    weights = {p.name: p.weight for p in objective.parts(context)}
    outcome = Outcome(weights={**weights, **dict.fromkeys(objective.extras, 1.0)})
    batch = tasks.fields_of(case.inputs, case.head, dtype)
    outcome.values = _forward_backward(student, step, ddp, context, batch)
    outcome.gradients = _original(case, whole_gradients(student))
    seen = objective.views_of(batch_of(batch), context)[0]
    with standing_in(student, objective.replacements(context), step.teachers):
        outcome.values["hard_label"] = _hard_label(student, seen, hard_loss(case.flags))
        outcome.logits["student"] = whole_logits(student, seen)
    for name, teacher in step.teachers.items():
        read = read_by(name, seen, objective, student)
        outcome.logits[name] = whole_logits(teacher.model, read)
    return outcome


class _RecordedObjective(Objective):
    """Takes the recorded choice of stand-in layers, if there is one."""

    def replacements(self, context: StepContext) -> dict[int, tuple[str, range]]:
        recorded = stand_ins_of(context)
        return super().replacements(context) if recorded is None else recorded


def _objective(case: Case, sizes: Mapping[str, Any], dtype: torch.dtype) -> Objective:
    """The terms of a case, their projections as recorded."""
    shapes = {f"t{i}": _shape(sizes) for i, (_, sizes) in enumerate(case.teachers())}
    terms, aggregator = case.aggregation
    read = terms_from_dict({"terms": terms, "aggregator": aggregator}, shapes)
    own = (0, aggregator, case.random_data)
    objective = _RecordedObjective(read, _shape(sizes), shapes, *own).to(dtype)
    parameters = dict(objective.named_parameters())
    with torch.no_grad():
        for name, tensor in case.extra_parameters().items() if not case.is_plain else ():
            if name in parameters:
                parameters[name].copy_(tensor)
    return objective


def _teachers(
    case: Case,
    objective: Objective,
    student: GLMConfig,
    parallel: Mapping[str, Any],
    dtype: torch.dtype,
) -> dict[str, Teacher]:
    parts, hosted = objective.possible_parts(), {}
    for i, (state, sizes) in enumerate(case.teachers()):
        beside = objective.possible_replacements().get(f"t{i}")
        split = place_teacher(f"t{i}", parts, student.split, sizes["num_layers"], beside)
        model = _model(case, _config(sizes, parallel, split), state, dtype, sizes)
        hosted[f"t{i}"] = Teacher(model, trainable="mt_has_grad" in case.flags)
    return hosted


def _forward_backward(
    student: GLMModel,
    step: DistillationStep,
    ddp: Any,
    context: StepContext,
    batch: dict[str, Any],
) -> dict[str, float]:
    ddp.zero_grad_buffer()
    values = run_passes(step, Pass(context, [batch]), [ddp])
    sum_over_stages(step.objective)
    student.decoder.sum_gradients()
    finalize_model_grads([ddp])
    return {name: float(value) for name, value in values.items()}


def _hard_label(student: GLMModel, batch: Batch, loss: str) -> float:
    """The hard loss, which the reference logs in every case."""
    term = {"method": "hard"}
    if batch.task is not None:
        term |= {"of": "classes", "loss": loss}
    objective = Objective({"hard": term_from_dict("hard", term, [])}, _NO_SHAPE, {})
    step = DistillationStep(student.config, objective, {})
    step.start(StepContext(), num_microbatches=1)
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    with torch.no_grad():
        schedule.run(step, [fields], [student], forward_only=True)
    return float(step.finish()["loss"])


_NO_SHAPE = ModelShape(10**6, 1, 1)


def _config(
    sizes: Mapping[str, Any], parallel: Mapping[str, Any], split: list[int] | None = None
) -> GLMConfig:
    no_dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "transformer_engine": False}
    return glm_config_from_cfg(
        {**sizes, **no_dropout}, sizes["vocab_size"], parallel=parallel, split=split
    )


def _shape(sizes: Mapping[str, Any]) -> ModelShape:
    names = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size")
    return ModelShape(*(sizes[name] for name in names))


def _model(
    case: Case,
    config: GLMConfig,
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    sizes: Mapping[str, Any],
) -> GLMModel:
    config.params_dtype = dtype
    config.pipeline_dtype = dtype
    model = GLMModel(
        config,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        head=case.head,
    ).to(dtype)
    weights = from_original(state, sizes["num_attention_heads"])
    load_whole(model, {**weights, **tasks.head_parameters(case.tensors)})
    if model.vocab_map is not None:
        model.vocab_map.fill(sizes["tables"])
    return model


def _original(case: Case, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients under original names, in the original layout."""
    heads = case.student()[1]["num_attention_heads"]
    renamed: dict[str, Tensor] = {}
    model: dict[str, Tensor] = {}
    live: dict[int, dict[str, Tensor]] = {}
    for name, gradient in gradients.items():
        if name.startswith("distill."):
            renamed[case.original_parameter(name.removeprefix("distill."))] = gradient
        elif match := re.fullmatch(r"live_teachers\.t(\d+)\.(.+)", name):
            live.setdefault(int(match[1]), {})[match[2]] = gradient
        elif (of_head := tasks.original_head_name(name)) is not None:
            renamed[of_head] = gradient
        else:
            model[name] = gradient
    for number, theirs in live.items():
        own_heads = case.teachers()[number][1]["num_attention_heads"]
        for name, gradient in to_original(theirs, own_heads).items():
            renamed[f"student.teacher_model_{number}.{name}"] = gradient
    return {**to_original(model, heads), **renamed}
