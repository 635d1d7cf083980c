"""DeepSpeed as the engine: ZeRO and CPU offload, with tensor and data parallelism.

The model, its loss and the data are those of the Megatron engine; only what Megatron-Core's
schedule, DDP and optimizer do for it is done by a ``DeepSpeedEngine`` (``deepspeed_engine.py``).
Frozen teachers are outside of it: every rank keeps its (tensor-parallel) shard of them whole at
all stages, and no optimizer or checkpoint sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from megatron.core import dist_checkpointing, parallel_state
from nemo.utils.model_utils import ckpt_to_dir

from glmkd_nemo.checkpoint import sharded
from glmkd_nemo.engine.deepspeed_config import engine_config
from glmkd_nemo.engine.deepspeed_engine import DeepSpeedChunk, DeepSpeedOptimizer, initialize
from glmkd_nemo.engine.partitioned import sharded_weights
from glmkd_nemo.engine.strategy import ENGINE_FOLDER, MegatronStrategy

RATES = "learning_rates"  # of the optimizer's groups, in Lightning's part of a checkpoint
TAG = "state"  # DeepSpeed's name of the only checkpoint in a folder


class DeepSpeedStrategy(MegatronStrategy):
    """As :class:`MegatronStrategy`, with a ``DeepSpeedEngine`` doing the training.

    A run's checkpoint has, beside the weights in this project's own layout, DeepSpeed's
    checkpoint in the folder ``deepspeed``; the same layout and stage go on from it.

    Args:
        section: ``cfg.engine``, checked by ``uses_deepspeed``.
        tp, pp, seed: as :class:`MegatronStrategy` has them.
        kwargs: of :class:`MegatronStrategy`.
    """

    def __init__(
        self, section: Mapping[str, Any], tp: int, pp: int, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(tp, pp, seed, section, **kwargs)
        self._resumed_from: Path | None = None

    def wrap(self, module: Any) -> list[Any]:
        """Puts the module's model into an engine.

        Raises:
            ValueError: DeepSpeed is not installed, or a method needs gradients twice in a step.
        """
        _refuse_passes(module)
        settings = engine_config(
            self.section, module.cfg, parallel_state.get_data_parallel_world_size()
        )
        engine = initialize(module.glm, module.cfg.optim, settings)
        return [DeepSpeedChunk(engine, module.glm.config)]

    def build_optimizer(self, module: Any, optim: Any) -> Any:
        """The optimizer inside the engine."""
        return DeepSpeedOptimizer(self.engine)

    @property
    def engine(self) -> Any:
        """The ``DeepSpeedEngine``."""
        return self.lightning_module.chunks[0].engine

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Saves Lightning's own state, the weights and DeepSpeed's checkpoint."""
        state = self.without_shards(checkpoint)
        state["state_dict"] = sharded_weights(self.lightning_module)
        beside = None
        if checkpoint.get("optimizer_states"):
            state[ENGINE_FOLDER] = self._layout()
            state[RATES] = [group["lr"] for group in self.optimizers[0].param_groups]
            beside = self._save_engine
        sharded.save_directory(state, ckpt_to_dir(str(filepath)), beside)

    def _save_engine(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder / ENGINE_FOLDER), tag=TAG)

    def load_checkpoint(self, checkpoint_path: Any, **ignored: Any) -> dict[str, Any]:
        """Reads Lightning's own state; in training the engine reads the rest itself.

        Raises:
            ValueError: the checkpoint is of the other engine, or of another layout or stage.
        """
        if self.lightning_module.trainer.state.fn != TrainerFn.FITTING:
            return super().load_checkpoint(checkpoint_path)
        path = Path(checkpoint_path)
        sharded.check_whole(path)
        common: dict[str, Any] = dist_checkpointing.load_common_state_dict(str(path))
        there, here = common.get(ENGINE_FOLDER), self._layout()
        if there is None:
            raise ValueError(
                f"checkpoint {path} was written by the Megatron engine: go on with "
                "engine=megatron, or start anew from its weights (restore_from_path=x.nemo)."
            )
        if there != here:
            raise ValueError(
                f"checkpoint {path} was written by DeepSpeed with {there}, and this run has "
                f"{here}: its optimizer state can go on with the same ones only."
            )
        self._resumed_from = path
        return {**common, "state_dict": {}, "optimizer_states": [{}]}

    def load_model_state_dict(self, checkpoint: dict[str, Any], strict: bool = True) -> None:
        """In training nothing: the engine reads weights and optimizer together."""
        if self._resumed_from is None:
            super().load_model_state_dict(checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Has the engine read its checkpoint.

        Raises:
            CheckpointDamaged: there is none.
        """
        assert self._resumed_from is not None
        folder = self._resumed_from / ENGINE_FOLDER
        found, _ = self.engine.load_checkpoint(str(folder), tag=TAG)
        if found is None:
            raise sharded.CheckpointDamaged(f"{folder} has no checkpoint of DeepSpeed")
        for group, rate in zip(self.optimizers[0].param_groups, checkpoint[RATES], strict=True):
            group["lr"] = rate  # not every stage restores it, and schedules set the next step's

    def _layout(self) -> dict[str, int]:
        return {
            "zero_stage": int(self.section.get("zero_stage") or 0),
            "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
            "data_parallel_size": parallel_state.get_data_parallel_world_size(),
        }


def _refuse_passes(module: Any) -> None:
    step = getattr(module, "step", None)
    if step is not None and step.objective.passes > 1:
        raise ValueError(
            "a term of model.distill.terms goes over its micro-batches twice in a step and drops "
            "the first gradients, which DeepSpeed has summed up by then: use engine=megatron."
        )
