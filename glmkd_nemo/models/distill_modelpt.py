"""Distillation as a NeMo model: a student that trains, and frozen teachers beside it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from megatron.core import parallel_state
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from glmkd_nemo.checkpoint.archive import TOKENIZER
from glmkd_nemo.data.tokenizer import load_tokenizer
from glmkd_nemo.distill import memory
from glmkd_nemo.distill.aggregator import Aggregator
from glmkd_nemo.distill.ahead_bounds import bounds_from_section
from glmkd_nemo.distill.analysis import layers_read
from glmkd_nemo.distill.method import ModelShape, StepContext
from glmkd_nemo.distill.micro_batch import Pass
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.passes import run_passes
from glmkd_nemo.distill.pipeline import mark_shared, sum_over_stages
from glmkd_nemo.distill.placement import place_teacher, tapped_layers
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import LiveTeachers, Teacher, shape_of
from glmkd_nemo.distill.terms import teachers_of, terms_from_dict
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.analysis import callbacks_of
from glmkd_nemo.models.build_vocab_map import teacher_of_map
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.modelpt import Batch, GLMModelPT
from glmkd_nemo.models.prepare import prepare
from glmkd_nemo.models.teacher import TeacherLoader, refuse_standing_in, teacher_cfg


class GLMDistillModelPT(GLMModelPT):
    """Trains a student on the terms of ``cfg.distill`` with the teachers of ``cfg.teachers``.

    The student is an ordinary GLM: checkpoints hold it and the methods' projections, its ``.nemo``
    holds it alone. Teachers are read from ``.nemo`` archives at the student's layout, whatever
    layout they were saved at, and are never saved, but for trainable ones in a run's checkpoints.

    Args:
        cfg: the section ``model`` of the configuration.
        trainer: with a ``MegatronStrategy``.

    Raises:
        ValueError: no terms, a teacher that is missing, unused or of another vocabulary, or terms
            that do not fit the models or the pipeline; before training, with the remedy.
    """

    def __init__(self, cfg: DictConfig, trainer: Any = None) -> None:
        super().__init__(cfg, trainer)
        self.step: DistillationStep | None = None
        self._teacher_cfgs = {n: teacher_cfg(n, t) for n, t in (cfg.get("teachers") or {}).items()}
        self._distill = cast(dict[str, Any], OmegaConf.to_container(cfg.distill, resolve=True))
        teachers = [str(name) for name in self._teacher_cfgs]
        self._terms = terms_from_dict(self._distill, teachers)
        used = {*teachers_of(self._terms, teachers), teacher_of_map(cfg.get("vocab_map"), teachers)}
        if unused := self._teacher_cfgs.keys() - used:
            raise ValueError(
                f"no term uses the teacher {', '.join(sorted(unused))}: remove it from "
                "model.teachers, or name it in a term of model.distill.terms."
            )

    def configure_callbacks(self) -> list[Any]:
        """The analysis of layers, where ``distill.analysis`` asks for it."""
        return callbacks_of(self.cfg)

    def build_model(self) -> GLMModel:
        """Builds the student's stage, then loads the teachers'."""
        config = glm_config_from_cfg(self.cfg, self.tokenizer.vocab_size)
        words = self.tokenizer.vocab_size
        shapes = {name: _shape(cfg, words) for name, cfg in self._teacher_cfgs.items()}
        combined = (self._distill.get("aggregator"), self._distill.get("random_data"))
        objective = Objective(self._terms, shape_of(config), shapes, self.seed, *combined)
        parts = objective.possible_parts()
        read = partial(layers_read, self._distill)
        student = GLMModel(
            config,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=True),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=True),
            tapped_layers=tapped_layers(parts, None) | read(config.num_layers),
            head=self.head(),
        )
        student.add_module("distill", objective)  # so that DDP and the optimizer train projections
        mark_shared(objective)
        teachers: dict[str, Teacher] = {}
        loader = TeacherLoader(self.cfg, self.device, words, self.head(), self._check_vocabulary)
        for name, cfg in self._teacher_cfgs.items():
            beside = objective.possible_replacements().get(name)
            if beside:
                refuse_standing_in(name, self.cfg.teachers[name], self.precision)
            split = place_teacher(name, parts, config.split, cfg.num_layers, beside)
            tapped = tapped_layers(parts, name) | read(cfg.num_layers)
            teachers[name] = loader.load(name, cfg, split, tapped)
        models = {name: teacher.model for name, teacher in teachers.items()}
        live = {name: models[name] for name, teacher in teachers.items() if teacher.trainable}
        student.add_module("live_teachers", LiveTeachers(live))
        prepare(student, self.cfg, self.tokenizer, models)
        ahead = bounds_from_section(self.cfg.get("run_ahead"), config, objective, teachers)
        self.step = DistillationStep(config, objective, teachers, ahead)
        return student

    def _check_vocabulary(self, path: str, folder: Path) -> None:
        theirs = load_tokenizer(folder / TOKENIZER)
        if theirs.fingerprint() != self.tokenizer.fingerprint():
            raise ValueError(
                f"the teacher {path} has another vocabulary ({theirs.vocab_size} tokens) than the "
                f"student ({self.tokenizer.vocab_size}): set model.tokenizer to the teacher's, "
                "command tokens (task_mask, block_mask) included."
            )

    # ---- one step ---------------------------------------------------------------------------

    def forward_step(self, data_iterator: Iterator[Batch], model: Any) -> Any:
        """Megatron-Core's ``forward_step_func``: see :class:`DistillationStep`."""
        assert self.step is not None
        return self.step(data_iterator, model)

    def epoch_at(self, step: int) -> int:
        """Epochs done at a step, as the methods count them."""
        return int(self.trainer.current_epoch)

    def _pass(self, batch: Batch, step: int, number: int | None) -> Pass:
        """The micro-batches of an optimizer step, by batch ``number`` of the run."""
        context = StepContext(
            step=step,
            max_steps=self.trainer.max_steps,
            epoch=self.epoch_at(step),
            seed=self.seed,
        )
        return Pass(context, schedule.split(batch, int(self.cfg.micro_batch_size)), number)

    def _following(self, feed: Any) -> Pass | None:
        """The next step's, where teachers may go on with it."""
        step = int(self.trainer.global_step) + 1
        if feed.following is None or step >= self.trainer.max_steps:
            return None
        batch = self.on_before_batch_transfer(feed.following, 0)
        batch = self.transfer_batch_to_device(batch, self.device, 0)
        return self._pass(batch, step, feed.number + 1)

    def run_schedule(self, batch: Batch, step: Any, forward_only: bool) -> list[dict[str, Tensor]]:
        """In training, all passes of a distillation step over the micro-batches of ``batch``."""
        if forward_only:
            return super().run_schedule(batch, step, forward_only)
        assert self.step is not None
        feed = self.trainer.train_dataloader
        now = self._pass(batch, int(self.trainer.global_step), feed.number)
        self.on_schedule_start(len(now.micro_batches), forward_only)
        run_passes(self.step, now, self.chunks, self._following(feed), collect=False)
        self.on_schedule_end(len(now.micro_batches), forward_only)
        return []

    def on_train_start(self) -> None:
        """The data are read one batch ahead where teachers may go on with the next step."""
        super().on_train_start()
        assert self.step is not None
        self.trainer.train_dataloader.look_ahead = self.step.ahead.bounds.next_step

    def on_train_end(self) -> None:
        """Teachers end what they have begun for a step that will not come."""
        super().on_train_end()
        assert self.step is not None
        self.step.ahead.drop()

    def collect_parts(self, losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Loss parts of the step by ``term/part`` (unweighted), and their weighted sum ``loss``."""
        assert self.step is not None
        return {name: value.float() for name, value in self.step.values().items()}

    def finalize_grads(self, model: list[Any], *args: Any, **kwargs: Any) -> None:
        """Sums projections' gradients over stages, then reduces as Megatron-Core does."""
        assert self.step is not None
        self.step.ahead.wait_for_stages()
        sum_over_stages(self.step.objective)
        super().finalize_grads(model, *args, **kwargs)

    # ---- checkpoints ------------------------------------------------------------------------

    def sharded_state_dict(self, prefix: str = "") -> dict[str, Any]:
        """Weights of the student, of the methods under ``distill.``, and of trainable teachers."""
        assert self.step is not None
        own: dict[str, Any] = self.step.objective.replicated_state(f"{prefix}distill.")
        live = cast(LiveTeachers, self.glm.live_teachers).state(f"{prefix}model.live_teachers.")
        return {**super().sharded_state_dict(prefix), **own, **live}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also stores what the aggregator keeps for its next forward."""
        super().on_save_checkpoint(checkpoint)
        if (aggregator := self._aggregator) is not None:
            checkpoint["aggregator_memory"] = memory.collected(aggregator.memory())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gives it back."""
        super().on_load_checkpoint(checkpoint)
        found = memory.found_again(checkpoint.get("aggregator_memory"))
        if self._aggregator is not None and found is not None:
            self._aggregator.recall(found)

    @property
    def _aggregator(self) -> Aggregator | None:
        return None if self.step is None else self.step.objective.aggregator


def _shape(cfg: DictConfig, vocab_size: int) -> ModelShape:
    return ModelShape(cfg.num_layers, cfg.hidden_size, cfg.num_attention_heads, vocab_size)
