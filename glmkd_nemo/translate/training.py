"""Batches, optimizer, schedule, precision: ``trainer``, ``model.optim`` and their like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glmkd_nemo.translate.command import Plan
from glmkd_nemo.translate.deepspeed import Settings, settings_of
from glmkd_nemo.translate.given import Given, dashed
from glmkd_nemo.translate.layout import Layout

SCHEDULES = {
    "linear": "PolynomialDecayAnnealing",
    "cosine": "CosineAnnealing",
    "constant": "WarmupPolicy",
    "exponential": "WarmupPolicy",  # the original keeps the rate constant
}


@dataclass(frozen=True)
class Effective:
    """What a run of the original really uses, of its options and its DeepSpeed file.

    Attributes:
        micro_batch: samples of a pass, on one replica.
        accumulation: passes of a step.
        lr, weight_decay, betas, eps, clip: of Adam.
        fp16: half precision.
    """

    micro_batch: int
    accumulation: int
    lr: float
    weight_decay: float
    clip: float
    fp16: bool
    betas: tuple[float, float]
    eps: float


def effective(given: Given, plan: Plan, changed: Settings | None = None) -> Effective:
    """What counts: the DeepSpeed file wins over options unless --args_to_ds_config is given.

    Args:
        given: options.
        plan: gets notes on options that do not count.
        changed: settings in place of the file's (auto_tune.py writes files of its own).

    Raises:
        ValueError: a DeepSpeed file that is not to be had, or another optimizer than Adam.
    """
    if given.of("optimizer") != "adam":
        raise ValueError(f"--optimizer={given.of('optimizer')}: only Adam is built here")
    options = Effective(
        micro_batch=int(given.of("batch-size")),
        accumulation=int(given.of("gradient-accumulation-steps")),
        lr=float(given.of("lr")),
        weight_decay=float(given.of("weight-decay")),
        clip=float(given.of("clip-grad")),
        fp16="fp16" in given,
        betas=(float(given.of("adam-beta1")), float(given.of("adam-beta2"))),
        eps=float(given.of("adam-eps")),
    )
    path = given.get("deepspeed_config")
    if "deepspeed" not in given or (not path and changed is None):
        return options
    settings, missing = (changed, None) if changed is not None else settings_of(str(path))
    if missing:
        plan.note(missing)
    if settings.zero_stage > 0:
        offload = " and with CPU offload" if settings.cpu_offload else ""
        plan.note(
            f"ZeRO stage {settings.zero_stage}{offload} of the DeepSpeed file: no effect: the "
            "optimizer's state is sharded over data-parallel ranks here; engine=deepspeed has ZeRO"
        )
    return _by_file(given, plan, options, settings, str(path or "the DeepSpeed file"))


def _by_file(
    given: Given, plan: Plan, options: Effective, settings: Settings, path: str
) -> Effective:
    back = "args_to_ds_config" in given  # written into the file before it is read
    batch = None if back else settings.micro_batch
    steps = options.accumulation if back else settings.accumulation or 1
    pairs: dict[str, tuple[Any, Any]] = {
        "batch-size": (batch, options.micro_batch),
        "gradient-accumulation-steps": (steps, options.accumulation),
        "lr": (settings.lr, options.lr),
        "weight-decay": (settings.weight_decay or 0.0, options.weight_decay),
        "clip-grad": (settings.clip or 0.0, options.clip),
        "adam-beta1": (settings.betas[0], options.betas[0]),
        "adam-beta2": (settings.betas[1], options.betas[1]),
        "adam-eps": (settings.eps, options.eps),
    }
    _left_out(plan, settings, path)
    used = {}
    for name, (of_file, own) in pairs.items():
        used[name] = own if of_file is None else of_file
        if name in given and used[name] != own:
            plan.note(f"{dashed(name)}={given[name]}: no effect: with {path} it is {of_file}")
    fp16 = options.fp16 if back else settings.fp16
    if fp16 != options.fp16:
        plan.note(f"precision: {path} decides, not --fp16")
    return Effective(
        micro_batch=int(used["batch-size"]),
        accumulation=int(used["gradient-accumulation-steps"]),
        lr=float(used["lr"]),
        weight_decay=float(used["weight-decay"]),
        clip=float(used["clip-grad"]),
        fp16=fp16,
        betas=(float(used["adam-beta1"]), float(used["adam-beta2"])),
        eps=float(used["adam-eps"]),
    )


def _left_out(plan: Plan, settings: Settings, path: str) -> None:
    """DeepSpeed builds the optimizer by its file, and knows nothing of the program's options."""
    for key, option, value in (
        ("gradient_clipping", "--clip-grad", settings.clip),
        ("weight_decay", "--weight-decay", settings.weight_decay),
    ):
        if value is None:
            plan.note(f"{path} has no {key}: the original runs without, whatever {option} says")


def processes(given: Given, plan: Plan, layout: Layout) -> int:
    """Trainer, precision aside; returns the number of data-parallel replicas."""
    plan.groups["trainer"] = "gpu"
    tensor = min(int(given.of("model-parallel-size")), layout.world)
    plan.set("trainer.devices", layout.devices)
    plan.set("trainer.num_nodes", layout.nodes)
    plan.set("model.tensor_model_parallel_size", tensor)
    if layout.world % tensor:
        raise ValueError(
            f"--model-parallel-size={tensor} does not divide the {layout.world} processes"
        )
    for note in layout.notes:
        plan.note(note)
    return layout.world // tensor


def optimization(given: Given, plan: Plan, found: Effective, replicas: int) -> None:
    """Batches, Adam, schedule, precision, seed."""
    plan.set("trainer.precision", 16 if found.fp16 else 32)
    plan.set("trainer.log_every_n_steps", int(given.of("log-interval")))
    plan.set("model.micro_batch_size", found.micro_batch)
    plan.set("model.global_batch_size", found.micro_batch * found.accumulation * replicas)
    plan.set("model.seed", int(given.of("seed")))
    plan.set("model.optim.lr", found.lr)
    plan.set("model.optim.weight_decay", found.weight_decay)
    plan.set("model.optim.betas", list(found.betas))
    plan.set("model.optim.eps", found.eps)
    plan.set("model.optim.clip_grad", found.clip)
    if found.fp16:
        plan.set("model.optim.hysteresis", int(given.of("hysteresis")), 2)
        plan.set("model.optim.loss_scale_window", int(given.of("loss-scale-window")), 1000)
    style = str(given.of("lr-decay-style"))
    if style not in SCHEDULES:
        raise ValueError(f"--lr-decay-style={style} is none of {', '.join(SCHEDULES)}")
    plan.set("model.optim.sched.name", SCHEDULES[style])
    plan.set("model.optim.sched.warmup_ratio", float(given.of("warmup")))
    ratio = float(given.of("lr-decay-ratio"))
    if style in ("linear", "cosine"):
        plan.set("model.optim.sched.min_lr", float(f"{found.lr * ratio:.6g}"))
        if style == "linear":
            plan.set("model.optim.sched.power", 1.0)
    if given.has("lr-decay-iters"):
        plan.set("model.optim.sched.max_steps", int(given.of("lr-decay-iters")))
    recompute = "full" if "checkpoint-activations" in given else None
    plan.set("model.activations_checkpoint_granularity", recompute)
    for name in ("hidden-dropout", "attention-dropout"):
        plan.set(f"model.{name.replace('-', '_')}", float(given.of(name)), 0.1)
    plan.set("model.attention_scale", float(given.of("attention-scale")), 1.0)
