"""Distillation steps over pipeline stages whose parts are timed, for pipeline.py."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import schedules

from glmkd_nemo.distill.ahead_bounds import Bounds
from glmkd_nemo.distill.method import StepContext
from glmkd_nemo.distill.micro_batch import Pass
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.passes import run_passes
from glmkd_nemo.distill.pipeline import mark_shared, sum_over_stages
from glmkd_nemo.distill.placement import place_teacher, tapped_layers
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import Teacher, shape_of
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel

TERMS = {"layers": {"method": "tinybert", "attention": False}, "soft": {"method": "kd"}}
REAL = {"hidden_size": 256, "num_attention_heads": 4}, {"batch": 4, "sequence": 128, "vocab": 2048}
TINY = {"hidden_size": 8, "num_attention_heads": 2}, {"batch": 1, "sequence": 8, "vocab": 16}
BACKWARD = schedules.backward_step
SLEEPS = {"student": 1.0, "teacher": 2.5, "backward": 2.0}  # units


class Clock:
    """Seconds spent in each part on this rank, call by call."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def timed(self, part: str, call: Callable[..., Any], without: str = "") -> Callable[..., Any]:
        """The function, timed; less what was spent in another part meanwhile."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            before, inner = time.perf_counter(), sum(self.spent.get(without, []))
            result = call(*args, **kwargs)
            inner = sum(self.spent.get(without, [])) - inner
            self.spent.setdefault(part, []).append(time.perf_counter() - before - inner)
            return result

        return wrapper


class TimedStep(DistillationStep):
    """A step that tells the student's part of it."""

    clock: Clock

    def __call__(self, data_iterator: Any, model: Any) -> Any:
        """Less what the taps of the teacher take."""
        return self.clock.timed("student", super().__call__, without="take")(data_iterator, model)


def after_sleep(seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which takes so much longer."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return call(*args, **kwargs)

    return wrapper


class Run:
    """A distillation with teachers ahead by ``bounds``, step by step."""

    def __init__(self, args: argparse.Namespace, bounds: Bounds) -> None:
        sizes, self.data = TINY if args.imitated else REAL
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        self.count = args.micro_batches
        student = self._config({**sizes, "num_layers": 2 * stages})
        teacher = self._config({**sizes, "num_layers": 4 * stages})
        terms = {n: term_from_dict(n, t, ["t0"]) for n, t in TERMS.items()}
        objective = Objective(terms, shape_of(student), {"t0": shape_of(teacher)})
        parts = objective.possible_parts()
        split = place_teacher("t0", parts, student.split, teacher.num_layers)
        teacher = self._config({**sizes, "num_layers": 4 * stages}, split)
        self.model = _model(student, tapped_layers(parts, None))
        self.model.add_module("distill", objective)
        mark_shared(objective)
        self.teacher = Teacher(_model(teacher, tapped_layers(parts, "t0")))
        self.step = TimedStep(student, objective, {"t0": self.teacher}, bounds)
        self.chunks = schedule.wrap_in_ddp([self.model], student, "adam")
        optim = {"name": "adam", "lr": 1e-4, "weight_decay": 0.01, "betas": [0.9, 0.999]}
        self.optimizer = build_optimizer(_Section(optim), "32", self.chunks)
        student.finalize_model_grads_func = self._finalize
        self.step.clock = self.clock = Clock()
        self._wrap(args.unit if args.imitated else 0.0)

    def _wrap(self, unit: float) -> None:
        timed, ahead, teacher = self.clock.timed, self.step.ahead, self.teacher
        slow = {name: partial(after_sleep, unit * units) for name, units in SLEEPS.items()}
        self.model.forward = slow["student"](self.model.forward)
        teacher.forward = timed("teacher", slow["teacher"](teacher.forward))  # type: ignore[method-assign]
        ahead.take = timed("take", ahead.take)  # type: ignore[method-assign]
        self.optimizer.step = timed("optimizer", self.optimizer.step)
        self.backward = timed("backward", slow["backward"](BACKWARD))

    def _config(self, sizes: dict[str, int], split: list[int] | None = None) -> Any:
        fixed = {"max_position_embeddings": 512, "hidden_dropout": 0.0, "attention_dropout": 0.0}
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        layout = {"tensor_model_parallel_size": 1, "pipeline_model_parallel_size": stages}
        given = {**sizes, **fixed, "make_vocab_size_divisible_by": 8}
        return glm_config_from_cfg(given, self.data["vocab"], parallel=layout, split=split)

    def _finalize(self, chunks: list[Any], *args: Any, **kwargs: Any) -> None:
        self.step.ahead.wait_for_stages()
        sum_over_stages(self.step.objective)
        finalize_model_grads(chunks, *args, **kwargs)

    def coming(self, number: int) -> Pass:
        """The micro-batches of a step."""
        generator = torch.Generator().manual_seed(number)
        b, s, vocab = self.data["batch"], self.data["sequence"], self.data["vocab"]
        context = s * 7 // 8
        place = torch.arange(s).repeat(b, 1)
        position = torch.stack(
            [place.clamp(max=context - 1), (place - context + 1).clamp(min=0)], 1
        )
        ids = torch.randint(1, vocab, (self.count, 2, b, s), generator=generator)
        given = {"position_ids": position, "attention_mask": torch.full((b,), context)}
        given["loss_mask"] = (place >= context).float()
        batches = [{**given, "input_ids": x, "labels": y} for x, y in ids]
        return Pass(StepContext(step=number, max_steps=10**6), batches, number)

    def one_step(self, number: int, last: bool) -> float:
        """Seconds of a step, its optimizer left out."""
        began, timed = time.perf_counter(), self.clock.spent.setdefault("optimizer", [])
        self.chunks[0].zero_grad_buffer()
        ahead = self.step.ahead.bounds.next_step and not last
        now, following = self.coming(number), self.coming(number + 1) if ahead else None
        schedules.backward_step = self.backward  # the schedule's own, timed
        run_passes(self.step, now, self.chunks, following)
        self.optimizer.step()
        return time.perf_counter() - began - timed[-1]


def _model(config: Any, tapped: set[int]) -> GLMModel:
    first, last = parallel_state.is_pipeline_first_stage(), parallel_state.is_pipeline_last_stage()
    return GLMModel(config, pre_process=first, post_process=last, tapped_layers=tapped)


class _Section(dict):
    """A dict with attributes, as OmegaConf's."""

    __getattr__ = dict.__getitem__
