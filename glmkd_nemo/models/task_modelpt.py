"""Fine-tuning on a downstream task as a NeMo model, with or without teachers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from glmkd_nemo.data.epochs import Epochs
from glmkd_nemo.distill.terms import with_answers
from glmkd_nemo.engine import data_feed, evaluation, schedule
from glmkd_nemo.models.distill_modelpt import GLMDistillModelPT
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.heads import HeadConfig, PooledHead
from glmkd_nemo.models.modelpt import Batch
from glmkd_nemo.tasks.registry import answers_of, build_task
from glmkd_nemo.tasks.task import Scores


class GLMTaskModelPT(GLMDistillModelPT):
    """Trains on ``cfg.task`` by the terms of ``cfg.distill``: without any, by the task's labels.

    Its ``.nemo`` is that of a plain GLM, with its classifier if the task has one.

    Args:
        cfg: the section ``model`` of the configuration, ``task`` among its keys.
        trainer: with a ``MegatronStrategy``.

    Attributes:
        task: what the data and metrics are.
        split: the one that validation runs on.
        scores, metrics: of the last evaluation; the same on all ranks.
        steps_per_epoch: optimizer steps in which all training examples are seen once.

    Raises:
        ValueError: as its base class, and for a task that cannot be had.
    """

    may_be_new = ("head.",)  # a pre-trained model has no classifier

    def __init__(self, cfg: DictConfig, trainer: Any = None) -> None:
        super().__init__(_of_this_task(cfg), trainer)
        self.task = build_task(self.cfg.task, self.tokenizer)
        self.task.check_positions(int(self.cfg.max_position_embeddings))
        self.split = "valid"
        self.scores: Scores = []
        self.metrics: dict[str, float] = {}
        self._found = evaluation.ItemScores()

    def head(self) -> HeadConfig | None:
        """The task's head."""
        return self.task.head

    def build_model(self) -> GLMModel:
        """Also draws a new classifier, the same at every pipeline size."""
        model = super().build_model()
        if isinstance(model.head, PooledHead):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                model.head.reset_parameters()
        return model

    def export_config(self) -> DictConfig:
        """The configuration for a ``.nemo``: it names a head that has parameters."""
        config = super().export_config()
        with open_dict(config):
            config.head = dict(vars(head)) if (head := _with_parameters(self.head())) else None
        return config

    # ---- training ---------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which all training examples are seen once (the last may see more)."""
        return -(-len(self.task.dataset("train")) // int(self.cfg.global_batch_size))

    def epoch_at(self, step: int) -> int:
        """Whole epochs done."""
        return step // self.steps_per_epoch

    def setup_training_data(self, train_data_config: Any) -> None:
        """The examples, shuffled in every epoch, as many as all steps need."""
        samples = self.trainer.max_steps * int(self.cfg.global_batch_size)
        self._datasets["train"] = Epochs(self.task.dataset("train"), samples, self.seed)

    def setup_validation_data(self, val_data_config: Any) -> None:
        """All examples of the split."""
        self._datasets["valid"] = self.task.dataset(self.split)

    def train_dataloader(self) -> Any:
        """Continues after ``consumed_samples``."""
        dataset, consumed = self._datasets.get("train"), self.consumed_samples
        return data_feed.loader(self, dataset, consumed, partial(self.task.collate, "train"))

    def val_dataloader(self) -> Any:
        """All examples of the split, once."""
        size = int(self.cfg.get("eval_batch_size") or self.cfg.micro_batch_size)
        return evaluation.loader(self.task, self.split, size)

    def transfer_batch_to_device(self, batch: Batch, device: Any, dataloader_idx: int) -> Batch:
        """Moves tensors, those of the task too (Lightning refuses frozen dataclasses)."""
        return schedule.mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))

    # ---- evaluation -------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forgets the scores of the evaluation before."""
        self._found = evaluation.ItemScores()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores the examples of a batch."""
        step = evaluation.forward_step
        self._found.add(schedule.run(step, [batch], self.chunks, forward_only=True))

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> None:
        """Computes the metrics and logs them, with ``val_score``, which is better if higher."""
        self.scores = self._found.gathered()
        self.metrics = {}
        if self.task.has_labels(self.split):
            self.metrics = self.task.metrics(self.split, self.scores)
            values = {f"val_{name}": value for name, value in self.metrics.items()}
            self.log_dict({**values, "val_score": self.score}, batch_size=1)

    @property
    def score(self) -> float:
        """The main metric of the last evaluation; higher is better, whatever the metric."""
        value = self.metrics[self.task.main_metric]
        return -value if self.task.lower_is_better else value

    def evaluate(self, split: str, run: Callable[[], Any]) -> tuple[dict[str, float], Scores]:
        """Evaluates a split.

        Args:
            split: of the task.
            run: has the trainer validate.

        Returns:
            Metrics (none without labels), and scores by example.
        """
        before, self.split = self.split, split
        try:
            run()
        finally:
            self.split = before
        return self.metrics, self.scores


def _of_this_task(cfg: DictConfig) -> DictConfig:
    """What ``of: answers`` stands for; the task's labels are the only term where there is none."""
    own = DictConfig(OmegaConf.to_container(cfg, resolve=True))
    with open_dict(own):
        own.distill = own.get("distill") or {}
        labels = {"hard": {"method": "hard", "of": "answers"}}
        own.distill.terms = with_answers(own.distill.get("terms") or labels, answers_of(cfg.task))
    return own


def _with_parameters(head: HeadConfig | None) -> HeadConfig | None:
    return head if head is not None and head.kind == "pooled" else None


def weights_of(model: GLMTaskModelPT, path: str) -> None:
    """Puts the weights of a ``.nemo`` of this model's sizes into it; all ranks call it."""
    from glmkd_nemo.checkpoint.archive import WEIGHTS, extracted
    from glmkd_nemo.checkpoint.weights import load_sharded
    from glmkd_nemo.engine.partitioned import whole

    with extracted(path) as folder, whole(model.glm, changes=True):
        load_sharded(model.glm, folder / WEIGHTS, label=path)
