"""Steps of this engine: models, objective and optimizer as a training run builds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import schedules

from glmkd_nemo.distill.batch import counted
from glmkd_nemo.distill.method import Batch, StepContext
from glmkd_nemo.distill.micro_batch import Pass
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.passes import run_passes
from glmkd_nemo.distill.pipeline import mark_shared, sum_over_stages
from glmkd_nemo.distill.placement import place_teacher, tapped_layers
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import Teacher, shape_of
from glmkd_nemo.distill.terms import terms_from_dict
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.blank_filling import token_mean
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from scripts.bench.communication import watch_groups
from scripts.bench.parts import Parts
from scripts.bench.recipes import Recipe
from scripts.bench.sizes import Size, batch

OPTIM = {"name": "adam", "lr": 1e-4, "weight_decay": 0.01, "betas": [0.9, 0.999]}
HALFWAY = StepContext(step=500, max_steps=1000)  # recipes that change in time: half-way


class Section(dict):
    """A dict with attributes, as OmegaConf's."""

    __getattr__ = dict.__getitem__


def section(size: Size, layers: int, sequence_parallel: bool) -> Section:
    """The section ``model`` of a model of ``layers`` at the layout that is set up."""
    return Section(
        num_layers=layers,
        hidden_size=size.hidden,
        num_attention_heads=size.heads,
        max_position_embeddings=size.positions,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
        sequence_parallel=sequence_parallel,
    )


def micro_batches(size: Size, count: int) -> list[dict[str, torch.Tensor]]:
    """This rank's share of the global batch, cut into ``count``."""
    ranks = parallel_state.get_data_parallel_world_size()
    rows = size.batch // ranks // count
    start = parallel_state.get_data_parallel_rank() * rows * count
    whole = batch(size)
    device = torch.cuda.current_device()
    mine = {name: x[start : start + rows * count] for name, x in whole.items()}
    there = {name: x.to(device) for name, x in mine.items()}
    return schedule.split({**there, "counts": counted(mine)}, rows)


class EngineStep:
    """An optimizer step of a student.

    Args:
        size: of models and batch.
        recipe: what it learns; ``None``: blank filling with the engine's own objective.
        sequence_parallel: as the key of that name.
        count: micro-batches of a step.
        parts: told what runs.
    """

    def __init__(
        self, size: Size, recipe: Recipe | None, sequence_parallel: bool, count: int, parts: Parts
    ) -> None:
        self.parts = parts
        cfg = section(size, size.student_layers, sequence_parallel)
        config = glm_config_from_cfg(cfg, size.vocab)
        objective = None if recipe is None else _objective(recipe, size, cfg)
        wanted = [] if objective is None else objective.possible_parts()
        student = _stage(config, tapped_layers(wanted, None))
        self.teachers: dict[str, Teacher] = {}
        self.run: Any = None
        if objective is not None:
            student.add_module("distill", objective)
            mark_shared(objective)
            for name in objective.teachers:
                self.teachers[name] = _teacher(name, size, cfg, config, objective)
            self.run = DistillationStep(config, objective, self.teachers)
        self.chunks = schedule.wrap_in_ddp([student], config, OPTIM["name"])
        self.optimizer = build_optimizer(Section(OPTIM), "32", self.chunks)
        config.grad_scale_func = self.optimizer.mcore.scale_loss
        config.finalize_model_grads_func = partial(_finalize, student, objective)
        self.data = micro_batches(size, count)

    def step(self) -> None:
        """Runs it."""
        part = self.parts.part
        with part("optimizer"):
            self.chunks[0].zero_grad_buffer()
            self.optimizer.zero_grad()
        self.forward_backward()
        with part("optimizer"):
            self.optimizer.step()

    def forward_backward(self) -> None:
        """The schedule alone."""
        data: Any = _Told(self.data, self.parts)
        if self.run is None:
            schedule.run(schedule.with_total(_blank_filling(self.parts)), data, self.chunks, False)
        else:
            run_passes(self.run, Pass(HALFWAY, data), self.chunks, collect=False)

    def watch(self) -> None:
        """From now on models and loss are told apart; :func:`watch_process` does the rest."""
        wrap = self.parts.wrap
        for teacher in self.teachers.values():
            teacher.forward = wrap("teacher", teacher.forward)  # type: ignore[method-assign]
        self.chunks[0].forward = wrap("student", self.chunks[0].forward)
        if self.run is not None:
            self.run = _Watched(self.run, self.parts)


class EngineTeacher:
    """A forward of the teacher, up to its final hidden states."""

    def __init__(self, size: Size, sequence_parallel: bool, parts: Parts) -> None:
        self.parts = parts
        cfg = section(size, size.teacher_layers, sequence_parallel)
        self.teacher = Teacher(_stage(glm_config_from_cfg(cfg, size.vocab), set()))
        self.data = Batch(**micro_batches(size, 1)[0])

    def step(self) -> None:
        """Runs it."""
        with self.parts.part("teacher"):
            self.teacher.forward(self.data, (), None)


def watch_process(parts: Parts) -> None:
    """From now on backward passes and communication of this process are told to ``parts``."""
    schedules.backward_step = parts.wrap("backward", schedules.backward_step)
    watch_groups(parts)


class _Watched:
    """A distillation step of which what is not the models' counts as the loss."""

    def __init__(self, run: DistillationStep, parts: Parts) -> None:
        self._run, self._parts = run, parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def __call__(self, *args: Any) -> Any:
        with self._parts.part("loss"):
            return self._run(*args)

    def end(self) -> Any:
        with self._parts.part("logging"):
            return self._run.end()


class _Told(list):
    """Micro-batches whose taking counts as the data's."""

    def __init__(self, rows: list[Any], parts: Parts) -> None:
        super().__init__(rows)
        self._parts = parts

    def __iter__(self) -> Iterator[Any]:
        inner = super().__iter__()
        while True:
            with self._parts.part("data"):
                row = next(inner, None)
            if row is None:
                return
            yield row


def _objective(recipe: Recipe, size: Size, cfg: Mapping[str, Any]) -> Objective:
    deep = glm_config_from_cfg({**cfg, "num_layers": size.teacher_layers}, size.vocab)
    shapes = dict.fromkeys(recipe.teachers, shape_of(deep))
    terms = terms_from_dict(recipe.distill, shapes)
    several = (recipe.distill.get("aggregator"), recipe.distill.get("random_data"))
    return Objective(terms, shape_of(glm_config_from_cfg(cfg, size.vocab)), shapes, 0, *several)


def _stage(config: Any, tapped: set[int]) -> GLMModel:
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=True)
    last = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
    model = GLMModel(config, pre_process=first, post_process=last, tapped_layers=tapped)
    return model.to(torch.cuda.current_device())


def _teacher(
    name: str, size: Size, cfg: Mapping[str, Any], student: Any, objective: Objective
) -> Teacher:
    parts = objective.possible_parts()
    beside = objective.possible_replacements().get(name)
    split = place_teacher(name, parts, student.split, size.teacher_layers, beside)
    sizes = {**cfg, "num_layers": size.teacher_layers}
    config = glm_config_from_cfg(sizes, size.vocab, split=split)
    return Teacher(_stage(config, tapped_layers(parts, name)))


def _finalize(student: GLMModel, objective: Any, model: list[Any], *args: Any, **kw: Any) -> None:
    """As ``GLMDistillModelPT.finalize_grads``."""
    if objective is not None:
        sum_over_stages(objective)
    student.decoder.sum_gradients()
    finalize_model_grads(model, *args, **kw)


def _blank_filling(parts: Parts) -> Any:
    """As ``GLMModelPT.forward_step``."""

    def step(data_iterator: Any, model: Any) -> Any:
        row = next(data_iterator)
        ids = row["input_ids"], row["position_ids"], row["attention_mask"]
        output = model(*ids, materialize=False)
        return output, parts.wrap("loss", partial(token_mean, row))

    return step
