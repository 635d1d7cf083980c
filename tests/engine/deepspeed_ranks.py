"""Distillation steps on both engines, side by side, on one or several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import finalize_model_grads

from glmkd_nemo.distill.gather import whole_tensor
from glmkd_nemo.distill.method import StepContext
from glmkd_nemo.distill.micro_batch import Pass
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.passes import run_passes
from glmkd_nemo.distill.placement import tapped_layers
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import Teacher, shape_of
from glmkd_nemo.distill.terms import term_from_dict
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.deepspeed_checkpoint import read_whole_weights
from glmkd_nemo.engine.deepspeed_config import engine_config
from glmkd_nemo.engine.deepspeed_engine import DeepSpeedChunk, DeepSpeedOptimizer, initialize
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.engine.partitioned import whole
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from tests.distill.ranks import layout
from tests.models.ranks import SECTION, VOCAB, batch

OPTIM = {"name": "adam", "lr": 1e-2, "weight_decay": 0.1, "clip_grad": 0.5, "betas": [0.9, 0.98]}
TERMS = {
    "soft": {"method": "kd", "temperature": 3.0},
    "layers": {"method": "tinybert", "weight": 0.5},
    "hard": {"method": "hard", "weight": 0.25},
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp": {},
    "tp2": {"tensor_model_parallel_size": 2},
    "tp2_sp": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
}
# models as small as these would be kept whole
DIVIDED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
ENGINES: dict[str, dict[str, Any] | None] = {
    "megatron": None,
    "zero0": {"zero_stage": 0},
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3, "config": DIVIDED},
    "offload": {"zero_stage": 2, "offload_optimizer": True},
    "offload3": {
        "zero_stage": 3,
        "offload_optimizer": True,
        "offload_parameters": True,
        "config": DIVIDED,
    },
}


class Run:
    """A student with a teacher and an engine, in the layout that is set up.

    Args:
        engine: one of :data:`ENGINES`.
        parallel: the layout's settings.
        precision: of the models.
    """

    def __init__(self, engine: str, parallel: dict[str, Any], precision: Any = 32) -> None:
        section = {**SECTION, **parallel, "precision": precision}
        deep = self._model({**section, "num_layers": 6, "hidden_size": 24}, seed=4)
        self.teacher = Teacher(deep.to(deep.config.params_dtype))
        terms = {name: term_from_dict(name, node, ["t0"]) for name, node in TERMS.items()}
        config = glm_config_from_cfg({**section, "num_layers": 3}, VOCAB)
        shapes = shape_of(config), {"t0": shape_of(deep.config)}
        objective = Objective(terms, *shapes, seed=5)
        tapped = tapped_layers(objective.possible_parts(), None)
        self.student = self._model({**section, "num_layers": 3}, seed=3, tapped=tapped)
        self.student.add_module("distill", objective)
        self.student.to(config.params_dtype).train()
        self.step = DistillationStep(self.student.config, objective, {"t0": self.teacher})
        self.count = 0
        self.micro = 2 * parallel_state.get_data_parallel_world_size()
        self._start(ENGINES[engine], section, str(precision))

    @staticmethod
    def _model(section: dict[str, Any], seed: int, tapped: Any = ()) -> GLMModel:
        torch.manual_seed(seed)
        tensor_parallel.model_parallel_cuda_manual_seed(seed)
        return GLMModel(glm_config_from_cfg(section, VOCAB), tapped_layers=tapped)

    def _start(self, engine: Any, section: dict[str, Any], precision: str) -> None:
        replicas = parallel_state.get_data_parallel_world_size()
        sizes = {"micro_batch_size": 2, "global_batch_size": 4 * replicas, "optim": OPTIM}
        self.chunk: Any
        if engine is None:
            config = self.student.config
            config.finalize_model_grads_func = finalize_model_grads
            model = schedule.in_precision(self.student)
            (self.chunk,) = schedule.wrap_in_ddp([model], config, "adam")
            self.optimizer: Any = build_optimizer(OPTIM, precision, [self.chunk])
            config.grad_scale_func = self.optimizer.scale_loss
            return
        settings = engine_config(engine, {**section, **sizes}, replicas)
        self.chunk = DeepSpeedChunk(initialize(self.student, OPTIM, settings), self.student.config)
        self.optimizer = DeepSpeedOptimizer(self.chunk.engine)

    def steps(self, number: int) -> list[float]:
        """Losses of further steps of two micro-batches; the rate falls a little in each."""
        return [self._one() for _ in range(number)]

    def _one(self) -> float:
        rank, replicas = (
            parallel_state.get_data_parallel_rank(),
            parallel_state.get_data_parallel_world_size(),
        )
        data = batch(100 + self.count, 4 * replicas)
        mine = {name: value[4 * rank : 4 * rank + 4] for name, value in data.items()}
        micro = schedule.split(mine, 2)
        for group in self.optimizer.param_groups:
            group["lr"] = OPTIM["lr"] * 0.97**self.count  # type: ignore[operator]
        self.chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        context = StepContext(step=self.count, max_steps=100)
        values = run_passes(self.step, Pass(context, micro), [self.chunk])
        self.optimizer.step()
        self.count += 1
        return float(values["loss"])

    def held_out(self) -> float:
        """The student's own loss on a batch, forward only."""
        from glmkd_nemo.engine.blank_filling import HeldOut, forward_step

        self.student.eval()
        found = HeldOut()
        found.add(schedule.run(forward_step, [batch(9)], [self.chunk], forward_only=True))
        self.student.train()
        return found.result()["val_loss"]

    def weights(self) -> dict[str, torch.Tensor]:
        """The student's weights, whole."""
        with whole(self.student):
            return {
                name: whole_tensor(p.detach(), p).clone()
                for name, p in self.student.named_parameters()
                if not name.startswith("distill.")
            }


def side_by_side(layouts: list[str], engines: list[str], steps: int) -> dict[str, Any]:
    """Losses by layout and engine; last the held-out loss."""
    found: dict[str, Any] = {}
    for name in layouts:
        with layout(LAYOUTS[name].get("tensor_model_parallel_size", 1)):
            for engine in engines:
                run = Run(engine, LAYOUTS[name])
                found[f"{name} {engine}"] = {
                    "losses": run.steps(steps),
                    "norm": None if (norm := run.optimizer.grad_norm) is None else float(norm),
                    "held_out": run.held_out(),
                    "decayed": sorted({g["weight_decay"] for g in run.optimizer.param_groups}),
                }
    return found


def saved_and_loaded(root: str, layouts: list[str], engines: list[str]) -> dict[str, Any]:
    """A run that is saved, one that goes on from it, and the weights that we read of it."""
    found: dict[str, Any] = {}
    for name in layouts:
        with layout(LAYOUTS[name].get("tensor_model_parallel_size", 1)):
            for engine in engines:
                folder = Path(root, f"{name}-{engine}")
                first = Run(engine, LAYOUTS[name])
                first.steps(2)
                first.chunk.engine.save_checkpoint(str(folder), tag="state")
                mine = first.weights()
                again = Run(engine, LAYOUTS[name])
                again.chunk.engine.load_checkpoint(str(folder), tag="state")
                again.count = first.count
                read = read_whole_weights(folder)
                dist.barrier()
                found[f"{name} {engine}"] = {
                    "on": first.steps(3),
                    "resumed": again.steps(3),
                    "equal": mine.keys() == read.keys()
                    and all(torch.equal(mine[n], read[n]) for n in mine),
                }
    return found
