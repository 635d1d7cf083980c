"""A ``DeepSpeedEngine`` around a model: ZeRO, with tensor and data parallelism.

The whole forward of a micro-batch, the losses included, runs inside the engine's module, so that
ZeRO-3 has weights gathered while they are used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor, nn

from glmkd_nemo.engine import quiet


class _Groups:
    """Megatron-Core's groups under the names that DeepSpeed asks an ``mpu`` for."""

    get_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_model_parallel_group = staticmethod(parallel_state.get_tensor_model_parallel_group)
    get_model_parallel_world_size = staticmethod(
        parallel_state.get_tensor_model_parallel_world_size
    )
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_data_parallel_rank = staticmethod(parallel_state.get_data_parallel_rank)
    get_data_parallel_group = staticmethod(parallel_state.get_data_parallel_group)
    get_data_parallel_world_size = staticmethod(parallel_state.get_data_parallel_world_size)


class TrainedModel(nn.Module):
    """What DeepSpeed wraps: a micro-batch in, the loss and its parts out.

    Args:
        model: this rank's shard; its weights are named ``model.*`` in DeepSpeed's checkpoints.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, step: Callable[..., Any], micro_batches: Iterator[Any]) -> Any:
        """Runs Megatron-Core's ``forward_step_func`` and its loss function."""
        output, loss_function = step(micro_batches, self.model)
        return loss_function(output)


class DeepSpeedChunk:
    """Stands where Megatron-Core's DDP stands in the list of a module's chunks.

    Args:
        engine: around a :class:`TrainedModel`.
        config: of the model.
    """

    def __init__(self, engine: Any, config: Any) -> None:
        self.engine, self.config = engine, config

    def zero_grad_buffer(self) -> None:
        """Nothing: the engine drops the gradients in its step."""

    def forward_backward(
        self,
        forward_step_func: Callable[..., Any],
        data_iterator: Iterator[Any],
        num_microbatches: int,
        forward_only: bool,
        **ignored: Any,
    ) -> list[Any]:
        """In place of Megatron-Core's schedule; the same arguments and result."""
        self.engine.training = self.engine.module.training = not forward_only
        found = []
        for number in range(num_microbatches):
            if number > 0 and not forward_only:
                self.engine.step()  # counts the micro-batch before
            with torch.set_grad_enabled(not forward_only):
                loss, parts = self.engine(forward_step_func, data_iterator)
            if not forward_only:
                self.engine.backward(loss)  # divides by the number of micro-batches
            found.append(parts)
        if forward_only and hasattr(self.engine.optimizer, "empty_partition_cache"):
            # ZeRO-3 fetches weights ahead, those of a backward pass too, which would stay in
            # flight and could not be gathered for a checkpoint
            self.engine.optimizer.empty_partition_cache()
        return found


class DeepSpeedOptimizer(torch.optim.Optimizer):
    """A view of the engine as torch's optimizer, for Lightning and the learning-rate schedules.

    Attributes:
        grad_norm: norm of all gradients before clipping, at the last step. ``None`` before it,
            and at stage 0 in fp32, where DeepSpeed does not tell it.
        scale_loss: ``None``: the engine scales losses itself.
    """

    def __init__(self, engine: Any) -> None:  # torch's own __init__ would copy the groups
        self.engine = engine
        self.defaults: dict[str, Any] = {}
        self.grad_norm: float | Tensor | None = None
        self.scale_loss = None
        self._optimizer_step_pre_hooks: dict[int, Any] = {}
        self._optimizer_step_post_hooks: dict[int, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Parameter groups of the engine (a scheduler sets ``lr`` in them)."""
        groups: list[dict[str, Any]] = self.engine.optimizer.param_groups
        return groups

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """Empty: the engine saves it."""
        return {}

    @property
    def skipped(self) -> int:
        """Number of steps skipped because fp16 gradients overflowed."""
        return int(self.engine.skipped_steps)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: done in the engine's step."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Runs the closure (forward and backward), then clips and applies the gradients."""
        loss = closure() if closure is not None else None
        self.engine.step()
        self.grad_norm = self.engine.get_global_grad_norm()
        return loss

    def loss_scale(self) -> float:
        """The factor that losses are multiplied by before backward (1 without fp16)."""
        return float(self.engine._get_optimizer_loss_scale() or 1.0)


def _sum_gradients_of_slices(model: Any) -> None:
    """Under sequence parallelism some replicated weights see a slice of the positions only.

    Megatron-Core sums their gradients over the tensor-parallel ranks at the end of a step, when
    ZeRO has them in buckets; so each gradient is summed as it comes.
    """
    if not model.config.sequence_parallel:
        return

    def summed(gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        group = parallel_state.get_tensor_model_parallel_group()
        torch.distributed.all_reduce(total, group=group)
        return total

    for parameter in model.parameters():
        if parameter.requires_grad and getattr(parameter, "sequence_parallel", False):
            parameter.register_hook(summed)


def initialize(model: Any, optim: Mapping[str, Any], settings: dict[str, Any]) -> Any:
    """A ``DeepSpeedEngine`` with Adam; biases and norms do not decay, as in Megatron-Core.

    Args:
        model: this rank's shard.
        optim: the section ``model.optim``.
        settings: DeepSpeed's configuration.

    Raises:
        ValueError: DeepSpeed is not installed.
    """
    on_gpu = torch.cuda.is_available()
    rank = torch.cuda.current_device() if on_gpu else torch.distributed.get_rank()
    os.environ.setdefault("LOCAL_RANK", str(rank))  # it is read in every step, and srun sets none
    if not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it warns that it found no other
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError(
            "engine=deepspeed, but DeepSpeed cannot be imported: pip install glmkd_nemo[deepspeed] "
            f"({error})"
        ) from error
    if not on_gpu:
        # an all-reduce for inference on CPUs, which would be compiled here and never used
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not quiet.debugging():
        # at stage 3 it warns of types that it does not know: ours, which it need not
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    _sum_gradients_of_slices(model)
    trained = TrainedModel(model)
    offloads = "offload_optimizer" in settings["zero_optimization"]
    adam = _adam(trained, optim, offloads)
    word_embeddings = model.shared_embedding_or_output_weight()
    engine, *_ = deepspeed.initialize(
        model=trained, optimizer=adam, config=settings, mpu=_Groups, dist_init_required=False
    )
    if settings["zero_optimization"]["stage"] == 3:
        # the head's losses use it when the model's own forward has ended
        deepspeed.zero.register_external_parameter(trained, word_embeddings)
    return engine


def _adam(trained: nn.Module, optim: Mapping[str, Any], offloads: bool) -> torch.optim.Optimizer:
    """Torch's AdamW; on CUDA its fused form, or DeepSpeed's own for state in the host's memory."""
    named = [(n, p) for n, p in trained.named_parameters() if p.requires_grad]
    still = [p for n, p in named if p.dim() == 1 or n.endswith(".bias")]
    decay = [p for n, p in named if not (p.dim() == 1 or n.endswith(".bias"))]
    weight_decay, betas = float(optim.get("weight_decay", 0.01)), optim.get("betas", (0.9, 0.999))
    groups = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": still, "weight_decay": 0.0},
    ]
    settings: dict[str, Any] = {
        "lr": float(optim["lr"]),
        "betas": (float(betas[0]), float(betas[1])),
        "eps": float(optim.get("eps", 1e-8)),
    }
    if torch.cuda.is_available() and offloads:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        cpu_adam: torch.optim.Optimizer = DeepSpeedCPUAdam(groups, adamw_mode=True, **settings)
        return cpu_adam
    return torch.optim.AdamW(groups, fused=torch.cuda.is_available(), **settings)
