"""Lightning strategy for Megatron-Core: process groups, checkpoints as sharded directories.

The module itself owns the model chunks, mcore's DDP and the pipeline schedule (see
:mod:`glmkd_nemo.models.modelpt`); the strategy only sets the stage for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from megatron.core import dist_checkpointing, parallel_state
from nemo.utils import AppState
from nemo.utils.model_utils import ckpt_to_dir

from glmkd_nemo.checkpoint import sharded
from glmkd_nemo.engine import quiet, random, schedule
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.engine.overlap import check_stages

_UNSHARDED = ("state_dict", "optimizer_states")
ENGINE_FOLDER = "deepspeed"  # of a checkpoint that DeepSpeed's engine wrote
quiet.screen()


class MegatronStrategy(DDPStrategy):
    """Tensor, pipeline and data parallelism of Megatron-Core under Lightning.

    Works with Lightning's own launcher (``devices > 1``), torchrun and srun; gloo without CUDA,
    NCCL with it.

    Args:
        tensor_model_parallel_size: TP.
        pipeline_model_parallel_size: PP.
        seed: of the initial weights.
        section: ``cfg.engine``.
        kwargs: passed to Lightning's ``DDPStrategy``.

    Raises:
        ValueError: (at set-up) the number of processes is no multiple of TP x PP.
    """

    def __init__(
        self,
        tensor_model_parallel_size: int = 1,
        pipeline_model_parallel_size: int = 1,
        seed: int = 1234,
        section: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.section = section or {}
        self.tp = tensor_model_parallel_size
        self.pp = pipeline_model_parallel_size
        self.seed = seed

    def setup_environment(self) -> None:
        """Joins the processes and splits them into model- and data-parallel groups; idempotent."""
        if torch.distributed.is_initialized():
            self.accelerator.setup_device(self.root_device)
        else:
            super().setup_environment()
        initialize_model_parallel(self.tp, self.pp, self.seed)
        state = AppState()
        state.global_rank, state.local_rank = self.global_rank, self.local_rank
        state.world_size = self.world_size

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        """Ranks of one model-parallel group read the same data."""
        return {
            "num_replicas": parallel_state.get_data_parallel_world_size(),
            "rank": parallel_state.get_data_parallel_rank(),
        }

    def setup(self, trainer: Any) -> None:
        """Moves the module to its device; neither wraps it in torch's DDP nor equalises ranks."""
        self.accelerator.setup(trainer)
        self.model_to_device()
        if trainer.state.fn == TrainerFn.FITTING:
            self.lightning_module.setup_data_parallel()
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def wrap(self, module: Any) -> list[Any]:
        """The module's chunks ready for training: in Megatron-Core's DDP.

        Raises:
            ValueError: a setting of ``cfg.engine`` that would have no effect, or cannot be had.
        """
        if self.section.get("overlap_grad_reduce") and self.pp > 1:
            check_stages(module)
        name = module.cfg.optim.name
        return schedule.wrap_in_ddp(module.chunks, module.glm.config, name, self.section)

    def build_optimizer(self, module: Any, optim: Any) -> Any:
        """The optimizer of wrapped chunks, behind torch's interface."""
        return build_optimizer(optim, module.precision, module.chunks)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """The optimizer exists only after set-up."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Empty: weights are saved sharded by :meth:`save_checkpoint`."""
        return {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Empty: optimizer state is saved sharded by :meth:`save_checkpoint`."""
        return {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Saves Lightning's own state with sharded weights and optimizer; all ranks call it."""
        module = self.lightning_module
        weights = module.sharded_state_dict()
        state = self.without_shards(checkpoint)
        state["state_dict"] = weights
        if checkpoint.get("optimizer_states"):
            state["optimizer_states"] = [module.optimizer_sharded_state_dict(weights)]
            state["skipped_steps"] = self.optimizers[0].skipped
        sharded.save_directory(state, ckpt_to_dir(str(filepath)))

    @staticmethod
    def without_shards(checkpoint: dict[str, Any]) -> dict[str, Any]:
        """What is Lightning's own in a checkpoint: all but weights and optimizer."""
        return {key: value for key, value in checkpoint.items() if key not in _UNSHARDED}

    def load_checkpoint(self, checkpoint_path: Any, **ignored: Any) -> dict[str, Any]:
        """Reads a checkpoint directory into this rank's shards.

        Raises:
            FileNotFoundError, CheckpointDamaged: by name.
            ValueError: weights that are missing, unexpected or of another shape, or an optimizer
                of DeepSpeed's.
        """
        from glmkd_nemo.checkpoint.nemo import compare_weights

        path = Path(checkpoint_path)
        sharded.check_whole(path)
        module = self.lightning_module
        if module.trainer.state.fn == TrainerFn.FITTING and (path / ENGINE_FOLDER).is_dir():
            raise ValueError(
                f"checkpoint {path} was written by DeepSpeed: go on with engine=deepspeed and its "
                "other settings."
            )
        weights = module.sharded_state_dict()
        compare_weights(weights, path, str(path), also_there=("optimizer",))
        wanted: dict[str, Any] = {"state_dict": weights}
        if module.trainer.state.fn == TrainerFn.FITTING:
            wanted["optimizer_states"] = [
                module.optimizer_sharded_state_dict(weights, is_loading=True)
            ]
        return dist_checkpointing.load(wanted, str(path))

    def load_model_state_dict(self, checkpoint: dict[str, Any], strict: bool = True) -> None:
        """Puts loaded shards into the model chunks."""
        self.lightning_module.load_sharded_weights(checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Puts loaded shards into the optimizer."""
        self.optimizers[0].load_state_dict(checkpoint["optimizer_states"][0])
        self.optimizers[0].skipped = int(checkpoint.get("skipped_steps", 0))

    def remove_checkpoint(self, filepath: Any) -> None:
        """Removes a checkpoint directory."""
        if self.is_global_zero:
            shutil.rmtree(ckpt_to_dir(str(filepath)), ignore_errors=True)

    def teardown(self) -> None:
        """Leaves process groups alive: a test or a second ``fit`` may follow."""
        self.accelerator.teardown()
        self.precision_plugin.teardown()
        self.checkpoint_io.teardown()


def initialize_model_parallel(tp: int, pp: int, seed: int) -> None:
    """Initialises Megatron-Core's groups, NeMo's ``AppState`` and random states; idempotent.

    Raises:
        ValueError: the number of processes is no multiple of TP x PP.
    """
    from glmkd_nemo.engine.layout import check_layout

    sizes = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp}
    check_layout(sizes, torch.distributed.get_world_size())
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(tp, pp)
    random.seed_for_weights(seed)
    state = AppState()
    state.tensor_model_parallel_size, state.pipeline_model_parallel_size = tp, pp
    state.model_parallel_size = tp * pp  # NeMo lets all ranks save only if this is set
    state.tensor_model_parallel_rank = parallel_state.get_tensor_model_parallel_rank()
    state.pipeline_model_parallel_rank = parallel_state.get_pipeline_model_parallel_rank()
    state.data_parallel_rank = parallel_state.get_data_parallel_rank()
    state.data_parallel_size = parallel_state.get_data_parallel_world_size()


def join_alone(seed: int = 1234) -> None:
    """One process, no launcher: for restoring a model in a notebook or a small tool; idempotent.

    Where processes have already joined, only Megatron-Core's groups are completed.
    """
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo",
            store=torch.distributed.HashStore(),
            rank=0,
            world_size=1,
        )
    if not parallel_state.model_parallel_is_initialized():
        initialize_model_parallel(1, 1, seed)
