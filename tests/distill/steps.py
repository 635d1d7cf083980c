"""Whole distillation steps of several micro-batches, on recorded models, in any layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import from_original, load_whole
from glmkd_nemo.distill.gather import whole_gradients
from glmkd_nemo.distill.method import ModelShape, StepContext
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.pipeline import sum_over_stages
from glmkd_nemo.distill.placement import place_teacher
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import Teacher, shape_of
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.replay.case import Case

CASE = Path(__file__).resolve().parent.parent / "golden" / "distill_pt" / "tinybert_readme"
TERMS: dict[str, dict[str, Any]] = {
    "layers": {"method": "tinybert", "weight": 0.5},
    "soft": {"method": "kd", "temperature": 3.0, "mask": "pad_labels"},
    "logits": {"method": "glmd", "weight": 2.0, "top_n": 20, "teacher": "t0"},
    "hard": {"method": "hard", "weight": 0.25},
}


class Bench:
    """Student, teacher and objective in the layout that is set up, in float64."""

    def __init__(self, terms: dict[str, dict[str, Any]], sp: bool, recompute: str | None) -> None:
        case = Case(CASE)
        self.inputs = case.inputs
        state, sizes = case.student()
        ((teacher_state, teacher_sizes),) = case.teachers()
        config = _config({**sizes, "activations_checkpoint_granularity": recompute}, sp)
        keys = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size")
        shapes = ModelShape(*(sizes[key] for key in keys))
        deep = ModelShape(*(teacher_sizes[key] for key in keys))
        read = {name: term_from_dict(name, node, ["t0"]) for name, node in terms.items()}
        self.objective = Objective(read, shapes, {"t0": deep}, seed=5).double()
        split = place_teacher("t0", self.objective.possible_parts(), config.split, deep.layers)
        self.teacher = Teacher(_model(_config(teacher_sizes, sp, split), teacher_state))
        assert shape_of(self.teacher.config) == deep
        self.student = _model(config, state)
        self.student.add_module("distill", self.objective)
        self.step = DistillationStep(config, self.objective, {"t0": self.teacher})
        self.ddp = DistributedDataParallel(config, DistributedDataParallelConfig(), self.student)
        self.student.train()

    def run(self, samples: list[list[int]], context: StepContext) -> dict[str, float]:
        """One optimizer step's forwards and backwards, a micro-batch per list of samples."""
        data = [{k: v[rows] for k, v in self.inputs.items()} for rows in samples]
        batches = [_batch(d) for d in data]
        self.step.start(context, len(batches))
        self.ddp.zero_grad_buffer()
        get_forward_backward_func()(
            forward_step_func=self.step,
            data_iterator=iter(batches),
            model=[self.ddp],
            num_microbatches=len(batches),
            seq_length=batches[0]["input_ids"].shape[1],
            micro_batch_size=len(samples[0]),
            forward_only=False,
        )
        sum_over_stages(self.objective)
        finalize_model_grads([self.ddp])
        return {name: float(value) for name, value in self.step.finish().items()}

    def gradients(self) -> dict[str, Tensor]:
        """Of the student and the projection, whole."""
        return whole_gradients(self.student)


def run(
    samples: list[list[int]],
    sp: bool = False,
    recompute: str | None = None,
    grad_scale: float | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Values and gradients of a step."""
    bench = Bench(TERMS, sp, recompute)
    if grad_scale is not None:
        scale: Callable[[Tensor], Tensor] = lambda loss: loss * grad_scale  # noqa: E731
        bench.student.config.grad_scale_func = scale
    values = bench.run(samples, StepContext(max_steps=10))
    return values, bench.gradients()


def _config(sizes: dict[str, Any], sp: bool, split: list[int] | None = None) -> GLMConfig:
    parallel = {
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
        "sequence_parallel": sp,
    }
    dry = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "transformer_engine": False}
    config = glm_config_from_cfg(
        {**sizes, **dry}, sizes["vocab_size"], parallel=parallel, split=split
    )
    config.params_dtype = config.pipeline_dtype = torch.float64
    return config


def _model(config: GLMConfig, state: dict[str, Tensor]) -> GLMModel:
    first, last = parallel_state.is_pipeline_first_stage(), parallel_state.is_pipeline_last_stage()
    model = GLMModel(config, pre_process=first, post_process=last).double()
    load_whole(model, from_original(state, config.num_attention_heads))
    return model


def _batch(data: dict[str, Tensor]) -> dict[str, Tensor]:
    names = ("input_ids", "position_ids", "attention_mask", "labels", "loss_mask")
    return {name: data[name] for name in names}
