"""The modules of one rank, built for real without memory, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core import parallel_state
from torch import nn

from glmkd_nemo.distill.objective import Objective, WeightedPart
from glmkd_nemo.distill.offload import BUFFERS, packed
from glmkd_nemo.distill.placement import place_teacher, tapped_layers
from glmkd_nemo.distill.teachers import shape_of
from glmkd_nemo.distill.terms import terms_from_dict
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.engine.precision import precision_name, teacher_precision
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.plan.layout import Layout
from glmkd_nemo.plan.simulated import simulated_rank

ADAM_STATES = 2  # exp_avg, exp_avg_sq


@dataclass(frozen=True)
class Request:
    """What is to be planned: sections ``model`` of the student and of the teachers.

    Attributes:
        model: the student's, NeMo's key names.
        teachers: the same of each teacher, by name.
        vocab_size: of the tokenizer that they share.
    """

    model: Mapping[str, Any]
    teachers: Mapping[str, Mapping[str, Any]]
    vocab_size: int

    def at(self, layout: Layout) -> dict[str, Any]:
        """The student's section at a layout."""
        return {**self.model, **layout.overrides()}


@dataclass(frozen=True)
class BuiltRank:
    """What the modules, buffers and optimizer of one rank are; sizes in bytes.

    Attributes:
        stage: its pipeline stage.
        config: of the student; ``config.split`` has the layers per stage.
        teacher_configs: of the teachers, by name.
        parts: all loss parts that there may be.
        parameters: trained ones of this rank, with the methods' projections.
        weights, gradients: the student's, as Megatron-Core's DDP buffers hold them.
        optimizer: fp32 main weights and Adam's two states, this rank's shard.
        main_parameters: number of parameters of that shard.
        teacher_parameters, teacher_weights: of each teacher on this rank; of one that is offloaded
            only the weights that stay on the device.
        layer_buffers: what offloaded teachers share for the layers that run.
        offloaded: weights of each offloaded teacher that come to the device in every pass.
        copies: how many times larger a micro-batch is inside the models than outside.
        passes: how many times a step goes over its micro-batches.
    """

    stage: int
    config: GLMConfig
    teacher_configs: dict[str, GLMConfig]
    parts: list[WeightedPart]
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    main_parameters: int
    teacher_parameters: dict[str, int] = field(default_factory=dict)
    teacher_weights: dict[str, int] = field(default_factory=dict)
    layer_buffers: int = 0
    offloaded: dict[str, int] = field(default_factory=dict)
    copies: int = 1
    passes: int = 1


def build_rank(request: Request, layout: Layout, stage: int) -> BuiltRank:
    """Builds a rank of a pipeline stage, of the first tensor- and data-parallel place.

    All tensor-parallel ranks hold shards of one size; of data-parallel ranks the first has no
    smaller shard of the optimizer than the others.

    Args:
        request: the models.
        layout: processes and their groups.
        stage: the pipeline stage.

    Raises:
        ValueError: sizes, terms or teachers that cannot be had, with the remedy.
    """
    rank = stage * layout.tp * layout.dp
    with simulated_rank(rank, layout.world, layout.tp, layout.pp):
        return _build(request.at(layout), request, stage)


def _build(model: dict[str, Any], request: Request, stage: int) -> BuiltRank:
    config = _config(model, request.vocab_size)
    objective = _objective(model, request, config)
    parts = [] if objective is None else objective.possible_parts()
    student = _stage_of_model(config, tapped_layers(parts, None))
    if objective is not None:
        student.add_module("distill", objective)
    teachers = {
        name: _teacher(name, cfg, model, request.vocab_size, config, objective, parts)
        for name, cfg in request.teachers.items()
    }
    moved = {n: _layers(t) for n, t in teachers.items() if _section(model, n).get("offload")}
    name = model["optim"]["name"]
    chunks = schedule.wrap_in_ddp([schedule.in_precision(student)], config, name)
    main, optimizer = _optimizer(model, config, chunks)
    return BuiltRank(
        stage=stage,
        config=config,
        teacher_configs={name: teacher.config for name, teacher in teachers.items()},
        parts=parts,
        parameters=sum(p.numel() for p in student.parameters() if p.requires_grad),
        weights=_weights(chunks, student),
        gradients=sum(_bytes(buffer.grad_data) for buffer in chunks[0].buffers),
        optimizer=optimizer,
        main_parameters=main,
        teacher_parameters={n: sum(p.numel() for p in t.parameters()) for n, t in teachers.items()},
        teacher_weights={n: _held(t, n in moved) for n, t in teachers.items()},
        layer_buffers=BUFFERS
        * max((size for sizes in moved.values() for size in sizes), default=0),
        offloaded={n: sum(sizes) for n, sizes in moved.items()},
        copies=1 if objective is None else objective.batch_factor,
        passes=1 if objective is None else objective.passes,
    )


def _config(
    cfg: Mapping[str, Any],
    vocab_size: int,
    parallel: Mapping[str, Any] | None = None,
    split: list[int] | None = None,
    precision: str | None = None,
) -> GLMConfig:
    # Transformer Engine's layers have the same weights, and cannot be built on the meta device
    plain = {**cfg, "transformer_engine": False, "fp8": False}
    config = glm_config_from_cfg(
        plain, vocab_size, parallel=parallel, split=split, precision=precision
    )
    config.use_cpu_initialization, config.perform_initialization = True, False
    return config


def _objective(model: Mapping[str, Any], request: Request, config: GLMConfig) -> Objective | None:
    distill = model.get("distill") or {}
    if not distill.get("terms"):
        return None
    shapes = {
        name: shape_of(_config(cfg, request.vocab_size, parallel=model))
        for name, cfg in request.teachers.items()
    }
    terms = terms_from_dict(distill, shapes)
    combined = (distill.get("aggregator"), distill.get("random_data"))
    return Objective(terms, shape_of(config), shapes, 0, *combined)


def _stage_of_model(config: GLMConfig, tapped: set[int]) -> GLMModel:
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=True)
    last = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
    return GLMModel(config, pre_process=first, post_process=last, tapped_layers=tapped)


def _teacher(
    name: str,
    cfg: Mapping[str, Any],
    model: Mapping[str, Any],
    vocab_size: int,
    student: GLMConfig,
    objective: Objective | None,
    parts: list[WeightedPart],
) -> GLMModel:
    beside = None if objective is None else objective.possible_replacements().get(name)
    split = place_teacher(name, parts, student.split, int(cfg["num_layers"]), beside)
    where = f"model.teachers.{name}"
    precision = teacher_precision(_section(model, name), model.get("precision"), where)
    config = _config(cfg, vocab_size, parallel=model, split=split, precision=precision)
    teacher = _stage_of_model(config, tapped_layers(parts, name))
    return teacher.to(dtype=config.params_dtype).requires_grad_(False)


def _optimizer(model: Mapping[str, Any], config: GLMConfig, chunks: list[Any]) -> tuple[int, int]:
    """Number of parameters of this rank's shard, and the bytes of the optimizer."""
    optim = _Section(model["optim"])
    mcore = build_optimizer(optim, precision_name(model.get("precision", 32)), chunks)
    shards = [p for group in mcore.param_groups for p in group["params"]]
    main = sum(p.numel() for p in shards)
    half = config.params_dtype is not torch.float32  # fp32 weights are their own main weights
    return main, sum(map(_bytes, shards)) * (ADAM_STATES + half)


def _weights(chunks: list[Any], student: nn.Module) -> int:
    """Bytes of the weights: the distributed optimizer keeps them in one padded buffer."""
    buffers = [buffer.param_data for buffer in chunks[0].buffers]
    if all(buffer is not None for buffer in buffers):
        return sum(map(_bytes, buffers))
    return sum(map(_bytes, student.parameters()))


def _section(model: Mapping[str, Any], teacher: str) -> Mapping[str, Any]:
    """What the run says of a teacher."""
    found: Mapping[str, Any] = (model.get("teachers") or {}).get(teacher) or {}
    return found


def _held(teacher: GLMModel, offloaded: bool) -> int:
    """Bytes of the weights that are always on the device."""
    away = sum(map(_bytes, teacher.decoder.layers.parameters())) if offloaded else 0
    return sum(map(_bytes, teacher.parameters())) - away


def _layers(teacher: GLMModel) -> list[int]:
    """Bytes of each layer of a stage, as they are moved."""
    return [packed(layer)[1] for layer in teacher.decoder.layers]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Section(dict[str, Any]):
    """A mapping with attributes, as OmegaConf's sections."""

    __getattr__ = dict.__getitem__
