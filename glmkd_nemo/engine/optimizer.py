"""Megatron-Core's optimizer behind the interface of a torch ``Optimizer``.

Lightning and NeMo's learning-rate schedulers want a torch optimizer; Megatron-Core's (plain or
distributed, with main parameters in fp32 and a loss scaler) is none. :class:`McoreOptimizer` hands
calls through, and works around what megatron-core 0.16.1 gets wrong with torch's Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

from glmkd_nemo.engine import foreach

# The default sharding of optimizer state cannot be saved ("flattened_range is not supported");
# this one can, and loads at any other TP, PP and DP.
SHARDING = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}
NAMES = ("mcore_distributed_optim", "adam")
# NeMo schedulers that count steps; the others of its list are torch's and start where they please
_TORCH_SCHEDULERS = ("StepLR", "ExponentialLR", "ReduceLROnPlateau", "CyclicLR")


class McoreOptimizer(torch.optim.Optimizer):
    """A view of a Megatron-Core optimizer.

    Attributes:
        mcore: the optimizer that does the work.
        grad_norm: norm of all gradients before clipping, at the last step (``None`` before it).
        skipped: number of steps skipped because fp16 gradients overflowed.
    """

    def __init__(self, mcore: Any) -> None:  # torch's own __init__ would copy the parameter groups
        self.mcore = mcore
        self.defaults: dict[str, Any] = {}
        self.grad_norm: float | None = None
        self.skipped = 0
        self._optimizer_step_pre_hooks: dict[int, Any] = {}
        self._optimizer_step_post_hooks: dict[int, Any] = {}
        foreach.install()
        for optimizer in self._parts():
            _accept_step_of_torch_adam(optimizer)
        self._fuse()

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Parameter groups of the engine (the same dictionaries, so a scheduler can set ``lr``)."""
        return self.mcore.param_groups

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """Empty: the state is sharded, see :meth:`sharded_state_dict`."""
        return {}

    def _parts(self) -> Iterator[Any]:
        yield from getattr(self.mcore, "chained_optimizers", [self.mcore])

    def _fuse(self) -> None:
        """On the CPU, torch's Adam in one pass: less than half the time, to the last digit."""
        for optimizer in self._parts():
            inner = optimizer.optimizer
            for group in inner.param_groups if isinstance(inner, torch.optim.Adam) else ():
                # a checkpoint may come from a device of another kind
                group["fused"] = True if _on_cpu(group["params"]) else None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients of all parameters."""
        self.mcore.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Runs the closure (forward and backward), then clips and applies the gradients."""
        loss = closure() if closure is not None else None
        done, self.grad_norm, _ = self.mcore.step()
        self.skipped += not done
        return loss

    @property
    def scale_loss(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Multiplies a loss before its backward (with fp16)."""
        scale: Callable[[torch.Tensor], torch.Tensor] = self.mcore.scale_loss
        return scale

    def loss_scale(self) -> float:
        """The factor that losses are multiplied by before backward (1 without fp16)."""
        return float(self.mcore.get_loss_scale())

    def state_dict(self) -> dict[str, Any]:
        """The engine's own (unsharded) state."""
        return self.mcore.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        """Loads what :meth:`sharded_state_dict` described."""
        self.mcore.load_state_dict(state_dict)
        self._fuse()
        for optimizer in self._parts():
            for state in optimizer.optimizer.state.values():
                # mcore hands one step tensor to all parameters, and each would count it up
                if torch.is_tensor(state.get("step")):
                    state["step"] = state["step"].clone()

    def sharded_state_dict(self, model: dict[str, Any], is_loading: bool = False) -> Any:
        """State as sharded tensors, loadable at another TP, PP and DP.

        Args:
            model: the model's sharded state dict.
            is_loading: the result tells ``dist_checkpointing.load`` what to read.
        """
        for optimizer in self._parts():
            # torch's Adam has no state before its first step, and mcore asserts that there is one
            if not optimizer.optimizer.state:
                if hasattr(optimizer, "_init_optimizer_states_with_dummy_values"):
                    optimizer._init_optimizer_states_with_dummy_values()
                elif not is_loading:
                    optimizer.init_state_fn(optimizer.optimizer, optimizer.config)
        return self.mcore.sharded_state_dict(model, is_loading=is_loading, metadata=SHARDING)


def _on_cpu(parameters: list[torch.Tensor]) -> bool:
    return all(parameter.device.type == "cpu" for parameter in parameters)


def _accept_step_of_torch_adam(optimizer: Any) -> None:
    """Loading sets each state of a parameter from a dict that lacks torch Adam's ``step``."""
    original = getattr(optimizer, "_set_main_param_and_optimizer_states", None)
    if original is None:
        return

    def with_step(model_param: torch.nn.Parameter, tensors: dict[str, torch.Tensor]) -> None:
        group, order = optimizer.model_param_group_index_map[model_param]
        main = optimizer.optimizer.param_groups[group]["params"][order]
        state = optimizer.optimizer.state[main]
        if "step" in state:
            tensors.setdefault("step", state["step"])
        original(model_param, tensors)

    optimizer._set_main_param_and_optimizer_states = with_step


def build_optimizer(optim: Mapping[str, Any], precision: str, chunks: list[Any]) -> McoreOptimizer:
    """Builds Megatron-Core's Adam for DDP-wrapped model chunks.

    Args:
        optim: the section ``model.optim``: ``name`` (one of :data:`NAMES`), ``lr``,
            ``weight_decay``, ``betas``, ``eps``, ``clip_grad`` and the fp16 loss-scale settings.
        precision: ``"32"``, ``"bf16"`` or ``"16"``.
        chunks: mcore ``DistributedDataParallel`` modules.

    Raises:
        ValueError: unknown optimizer name.
    """
    check_optimizer_name(optim["name"])
    betas = optim.get("betas", (0.9, 0.999))
    half = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision, torch.float32)
    config = OptimizerConfig(
        optimizer="adam",
        lr=float(optim["lr"]),
        weight_decay=float(optim.get("weight_decay", 0.01)),
        clip_grad=float(optim.get("clip_grad", 1.0)),
        adam_beta1=float(betas[0]),
        adam_beta2=float(betas[1]),
        adam_eps=float(optim.get("eps", 1e-8)),
        use_distributed_optimizer=optim["name"] == NAMES[0],
        bf16=precision == "bf16",
        fp16=precision == "16",
        params_dtype=half,
        initial_loss_scale=float(optim.get("initial_loss_scale", 2.0**16)),
        min_loss_scale=float(optim.get("min_loss_scale", 1.0)),
        loss_scale_window=float(optim.get("loss_scale_window", 1000)),
        hysteresis=int(optim.get("hysteresis", 2)),
    )
    optimizer = McoreOptimizer(get_megatron_optimizer(config, chunks))
    for group in optimizer.param_groups:
        # in Megatron-LM its own scheduler applies the multiplier (0 for biases and norms)
        group["weight_decay"] = config.weight_decay * group.get("wd_mult", 1.0)
    return optimizer


def check_optimizer_name(name: str) -> None:
    """Raises ValueError unless ``name`` is an optimizer of this engine."""
    if name not in NAMES:
        raise ValueError(f"model.optim.name={name} is unknown: choose one of {', '.join(NAMES)}")


def build_scheduler(
    optimizer: McoreOptimizer, sched: Mapping[str, Any] | None, max_steps: int
) -> dict[str, Any] | None:
    """Builds a scheduler of NeMo's list by name.

    The count starts at 1, so that the first step's rate is never 0 (some of NeMo's schedules warm
    up from ``step / warmup_steps``) and the last step's is ``min_lr`` exactly.

    Args:
        optimizer: whose rate is scheduled; ``lr`` is the peak.
        sched: the section ``model.optim.sched``; ``max_steps`` defaults to the trainer's.
        max_steps: the trainer's number of steps.

    Returns:
        Lightning's scheduler dictionary, or None for a constant rate.

    Raises:
        ValueError: unknown name, or lengths that do not fit ``max_steps``.
    """
    from nemo.core.optim.lr_scheduler import AVAILABLE_SCHEDULERS, prepare_lr_scheduler

    if not sched or not sched.get("name"):
        return None
    settings = {key: value for key, value in sched.items() if value is not None}
    settings.setdefault("max_steps", max_steps)
    name = settings["name"]
    if name not in AVAILABLE_SCHEDULERS:
        known = ", ".join(AVAILABLE_SCHEDULERS)
        raise ValueError(f"model.optim.sched.name={name} is unknown: choose one of {known}")
    if name not in _TORCH_SCHEDULERS:
        _check_lengths(settings)
        settings["last_epoch"] = 0
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return prepare_lr_scheduler(optimizer, settings, train_dataloader=None)


def _check_lengths(settings: dict[str, Any]) -> None:
    used = settings.get("warmup_steps", 0) + settings.get("constant_steps", 0)
    if used >= settings["max_steps"]:
        raise ValueError(
            f"model.optim.sched: warmup_steps + constant_steps = {used} leave nothing of "
            f"{settings['max_steps']} steps to decay: shorten them or raise trainer.max_steps"
        )
