"""GLM as a NeMo model: Megatron-Core's schedule, DDP and optimizer inside a Lightning module.

A step: the loader yields one global batch per data-parallel rank; it is cut into micro-batches, and
Megatron-Core's schedule calls :meth:`GLMModelPT.forward_step` for each. Lightning's backward,
zero_grad and clipping are no-ops: the schedule and the optimizer have done that work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from nemo.core.classes import ModelPT, PretrainedModelInfo
from omegaconf import DictConfig
from torch import Tensor

from glmkd_nemo.checkpoint.nemo import NemoConnector, allow_target, load_tokenizer_of
from glmkd_nemo.distill.batch import counted
from glmkd_nemo.engine import blank_filling, data_feed, quiet, random, schedule
from glmkd_nemo.engine.layout import check_layout
from glmkd_nemo.engine.optimizer import build_scheduler
from glmkd_nemo.engine.overlap import check_complete
from glmkd_nemo.engine.parts import PartsBoard
from glmkd_nemo.engine.precision import check_precision, precision_name
from glmkd_nemo.engine.step_log import StepLog
from glmkd_nemo.models.export import plain_glm_config
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.heads import HeadConfig
from glmkd_nemo.models.prepare import prepare

Batch = dict[str, Any]
LossFunction = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]

allow_target()
quiet.screen()


class GLMModelPT(ModelPT):
    """Pre-trains a GLM by autoregressive blank infilling.

    Args:
        cfg: the section ``model`` of the configuration.
        trainer: with a :class:`~glmkd_nemo.engine.strategy.MegatronStrategy`.

    Attributes:
        model: this rank's pipeline stage, once :meth:`configure_model` has run.
        tokenizer: read from ``cfg.tokenizer``, or from the ``.nemo`` archive on restoring.
        consumed_samples: training samples used so far, over all ranks.
        last_losses, last_lr: of the last step, what the schedule returned and the learning rate.
        last_parts: loss parts of the last step that was logged, in the host's memory.

    Raises:
        ValueError: a precision that cannot be had, with the reason.
    """

    def __init__(self, cfg: DictConfig, trainer: Any = None) -> None:
        check_precision(cfg)
        super().__init__(cfg=cfg, trainer=trainer)
        self._save_restore_connector = NemoConnector()
        self.tokenizer = self.build_tokenizer()
        self.precision = precision_name(cfg.get("precision", 32))
        self.seed = int(cfg.get("seed", 1234))
        self.model: GLMModel | None = None
        self.chunks: list[Any] = []
        self.last_losses: list[dict[str, Tensor]] = []
        self.last_parts: dict[str, Tensor] = {}
        self.last_lr, self.consumed_samples = 0.0, 0
        self._board, self._step_log = PartsBoard(), StepLog()
        self._datasets: dict[str, Any] = {}
        self._held_out = blank_filling.HeldOut()

    # ---- building -------------------------------------------------------------------------

    def build_tokenizer(self) -> Any:
        """The tokenizer of ``cfg.tokenizer``, or the one inside the archive being restored."""
        return load_tokenizer_of(self.cfg.tokenizer)

    def head(self) -> HeadConfig | None:
        """The task head of the models: the one that a fine-tuned model was saved with."""
        section = self.cfg.get("head")
        return HeadConfig(**section) if section else None

    def build_model(self) -> GLMModel:
        """Builds this rank's pipeline stage (parallel state is initialised)."""
        config = glm_config_from_cfg(self.cfg, self.tokenizer.vocab_size)
        first = parallel_state.is_pipeline_first_stage(ignore_virtual=True)
        last = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        model = GLMModel(config, pre_process=first, post_process=last, head=self.head())
        prepare(model, self.cfg, self.tokenizer, {})
        return model

    def configure_model(self) -> None:
        """Builds the model; Lightning calls it after the processes have joined. Idempotent.

        Raises:
            ValueError: a layout that does not fit the model, the batch or the processes.
        """
        if self.model is not None:
            return
        check_layout(self.cfg, torch.distributed.get_world_size(), training=False)
        random.seed_for_weights(self.seed)
        self.model = self.build_model()
        self.chunks = [schedule.in_precision(self.model)]

    def setup_data_parallel(self) -> None:
        """Has the strategy wrap the chunks for its engine, which calls this before training."""
        if schedule.is_wrapped(self.chunks):
            return
        check_layout(self.cfg, torch.distributed.get_world_size())
        self.chunks = self.trainer.strategy.wrap(self)
        self.glm.config.finalize_model_grads_func = self.finalize_grads

    @property
    def glm(self) -> GLMModel:
        """The built model (an error of the program if it is not built)."""
        assert self.model is not None, "configure_model() has not run"
        return self.model

    def setup_optimization(self, optim_config: Any = None, optim_kwargs: Any = None) -> None:
        """Builds optimizer and learning-rate schedule from ``cfg.optim``."""
        optim = self.cfg.optim if optim_config is None else optim_config
        self._optimizer = self.trainer.strategy.build_optimizer(self, optim)
        self._scheduler = build_scheduler(
            self._optimizer, optim.get("sched"), self.trainer.max_steps
        )
        self.glm.config.grad_scale_func = self._optimizer.scale_loss

    # ---- one step ---------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Counts the positions of losses while the batch is on the host (see ``Batch.counts``)."""
        return {**batch, "counts": counted(batch)} if self.trainer.training else batch

    def forward_step(self, data_iterator: Iterator[Batch], model: Any) -> tuple[Any, LossFunction]:
        """Megatron-Core's ``forward_step_func``; distillation overrides it.

        Args:
            data_iterator: micro-batches; take exactly one.
            model: the wrapped pipeline stage.

        Returns:
            The stage's output, and a function of it that returns ``(loss, {name: scalar})``.
        """
        batch = next(data_iterator)
        output = model(
            batch["input_ids"], batch["position_ids"], batch["attention_mask"], materialize=False
        )
        return output, partial(blank_filling.token_mean, batch)

    def on_schedule_start(self, num_microbatches: int, forward_only: bool) -> None:
        """Hook: before the schedule of a step."""

    def on_schedule_end(self, num_microbatches: int, forward_only: bool) -> None:
        """Hook: after the schedule of a step, before the optimizer."""

    def finalize_grads(self, model: list[Any], *args: Any, **kwargs: Any) -> None:
        """Hook: reduces gradients over ranks (mcore's ``finalize_model_grads``)."""
        self.glm.decoder.sum_gradients()
        check_complete(model)
        finalize_model_grads(model, *args, **kwargs)

    def collect_parts(self, losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Loss parts of a step, averaged, on every rank; asked for where they are logged only.

        Args:
            losses: per micro-batch on the last pipeline stage, empty on the others.

        Returns:
            Scalars in the host's memory.
        """
        return self._board.share(losses, self.device)

    def run_schedule(self, batch: Batch, step: Any, forward_only: bool) -> list[dict[str, Tensor]]:
        """Runs Megatron-Core's schedule over the micro-batches of ``batch``.

        Returns:
            What the loss functions returned, per micro-batch; empty before the last stage.
        """
        micro = schedule.split(batch, int(self.cfg.micro_batch_size))
        self.on_schedule_start(len(micro), forward_only)
        losses = schedule.run(schedule.with_total(step), micro, self.chunks, forward_only)
        self.on_schedule_end(len(micro), forward_only)
        return losses

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step's forward and backward; returns the total last collected (:class:`StepLog`)."""
        random.seed_for_step(self.seed, self.trainer.global_step)
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        self.last_losses = self.run_schedule(batch, self.forward_step, forward_only=False)
        self.consumed_samples += int(self.cfg.global_batch_size)
        self.last_lr = float(self._optimizer.param_groups[0]["lr"])
        self._step_log.step_has_run(self)
        return self.last_parts["loss"]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, *args: Any) -> None:
        """Logs the last step of a run that stops."""
        super().on_train_batch_end(outputs, batch, batch_idx, *args)
        self._step_log.batch_ends(self)

    def backward(self, *args: Any, **kwargs: Any) -> None:
        """Done inside the schedule."""

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Done at the start of :meth:`training_step`."""

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Done by the optimizer (``optim.clip_grad``)."""

    # ---- validation -------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Starts the sums over the validation set."""
        self._held_out = blank_filling.HeldOut(self.device)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds a batch to the sums."""
        self._held_out.add(self.run_schedule(batch, blank_filling.forward_step, forward_only=True))

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> None:
        """Logs ``val_loss`` (nats per token) and ``val_accuracy``; the layout does not matter."""
        self.log_dict(self._held_out.result(), batch_size=1)

    # ---- data -------------------------------------------------------------------------------

    def build_dataset(self, split: str, num_samples: int) -> Any:
        """Map-style dataset of ``split`` (train, valid, test); items depend on the seed only."""
        return data_feed.build(self.cfg, self.tokenizer, split, num_samples, self.seed)

    def setup(self, stage: str | None = None) -> None:
        """Builds the datasets of a stage once; NeMo's ``defer_setup`` is always in force."""
        super().setup(stage)
        if stage == "fit" and "train" not in self._datasets:
            self.setup_training_data(self.cfg.get("data"))
        if stage in ("fit", "validate") and "valid" not in self._datasets:
            self.setup_validation_data(self.cfg.get("data"))

    def setup_training_data(self, train_data_config: Any) -> None:
        """Builds the training set: as many samples as all steps need."""
        samples = self.trainer.max_steps * int(self.cfg.global_batch_size)
        self._datasets["train"] = self.build_dataset("train", samples)

    def setup_validation_data(self, val_data_config: Any) -> None:
        """Builds the held-out set: ``trainer.limit_val_batches`` global batches."""
        samples = data_feed.validation_batches(self.trainer) * int(self.cfg.global_batch_size)
        if samples:
            self._datasets["valid"] = self.build_dataset("valid", samples)

    def train_dataloader(self) -> Any:
        """Continues after ``consumed_samples`` (known only after a checkpoint is restored)."""
        return data_feed.loader(self, self._datasets.get("train"), self.consumed_samples)

    def val_dataloader(self) -> Any:
        """Starts at the first held-out sample every time."""
        return data_feed.loader(self, self._datasets.get("valid"), 0) or []

    # ---- checkpoints ------------------------------------------------------------------------

    @classmethod
    def restore_from(cls, restore_path: str, *args: Any, **kwargs: Any) -> Any:
        """Restores a ``.nemo`` at the trainer's layout, see :class:`NemoConnector`."""
        if len(args) < 6:
            kwargs.setdefault("save_restore_connector", NemoConnector())
        return super().restore_from(restore_path, *args, **kwargs)

    def export_config(self) -> DictConfig:
        """The configuration for a ``.nemo``: a plain GLM, whatever trained it."""
        return plain_glm_config(self.cfg, f"{__name__}.{GLMModelPT.__name__}")

    def sharded_state_dict(self, prefix: str = "") -> dict[str, Any]:
        """Weights of this stage as sharded tensors, keys starting with ``model.``."""
        return self.glm.sharded_state_dict(prefix=f"{prefix}model.")

    def optimizer_sharded_state_dict(self, weights: Any, is_loading: bool = False) -> Any:
        """Optimizer state as sharded tensors."""
        return self._optimizer.sharded_state_dict(weights, is_loading=is_loading)

    def load_sharded_weights(self, state: dict[str, Any]) -> None:
        """Puts loaded shards (keys starting with ``model.``) into the model."""
        self.glm.load_state_dict({k.removeprefix("model."): v for k, v in state.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores where in the data the run is."""
        checkpoint["consumed_samples"] = self.consumed_samples

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores where in the data the run was."""
        self.consumed_samples = int(checkpoint.get("consumed_samples", 0))

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """No model is published for download."""
        return []
