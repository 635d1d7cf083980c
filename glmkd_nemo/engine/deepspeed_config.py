"""The section ``engine`` of the configuration, and DeepSpeed's own configuration made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.engine.overlap import KEYS
from glmkd_nemo.engine.precision import precision_name

ENGINES = ("megatron", "deepspeed")
_OURS = {
    "train_batch_size": "model.global_batch_size",
    "train_micro_batch_size_per_gpu": "model.micro_batch_size",
    "gradient_accumulation_steps": "model.global_batch_size and model.micro_batch_size",
    "gradient_clipping": "model.optim.clip_grad",
    "optimizer": "model.optim",
    "scheduler": "model.optim.sched",
    "fp16": "trainer.precision=16 and model.optim",
    "bf16": "trainer.precision=bf16",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.offload_optimizer": "engine.offload_optimizer",
    "zero_optimization.offload_param": "engine.offload_parameters",
}  # DeepSpeed's key: where we have it from


def uses_deepspeed(cfg: Mapping[str, Any]) -> bool:
    """Whether ``cfg.engine`` asks for DeepSpeed, all that can be checked early being checked.

    Raises:
        ValueError: an unknown engine, a setting that does not apply to the engine, or a layout
            that DeepSpeed cannot have; with the remedy.
    """
    section = cfg.get("engine") or {}
    name = section.get("name") or ENGINES[0]
    if name not in ENGINES:
        raise ValueError(
            f"engine.name={name} is unknown{nearest(name, ENGINES)} (one of {', '.join(ENGINES)})"
        )
    if name == "deepspeed":
        if given := [key for key in KEYS if section.get(key)]:
            raise ValueError(
                f"engine.{given[0]} is a setting of Megatron-Core's, and the engine is {name}: say "
                "it in engine.config, in DeepSpeed's own words."
            )
        _check(section, cfg["model"])
        return True
    theirs = [key for key in section if key not in ("name", *KEYS)]
    if given := [key for key in theirs if section[key]]:
        raise ValueError(
            f"engine.{given[0]} is a setting of DeepSpeed, and the engine is {name}: write "
            "engine=deepspeed, or leave it out."
        )
    return False


def _check(section: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    stage = section.get("zero_stage") or 0
    if stage not in range(4):
        raise ValueError(f"engine.zero_stage={stage}: ZeRO has the stages 0, 1, 2 and 3.")
    if int(model.get("pipeline_model_parallel_size") or 1) > 1:
        raise ValueError(
            "engine=deepspeed runs tensor and data parallelism only: the pipeline here is "
            "Megatron-Core's, whose schedule does not know ZeRO's gradients. Set "
            "model.pipeline_model_parallel_size=1 (ZeRO saves the memory), or engine=megatron."
        )
    if section.get("offload_optimizer") and stage < 1:
        raise ValueError(
            "engine.offload_optimizer needs the optimizer state in parts: set engine.zero_stage "
            "to 1, 2 or 3."
        )
    if section.get("offload_parameters") and stage < 3:
        raise ValueError("engine.offload_parameters needs engine.zero_stage=3.")
    if stage == 3 and (model.get("distill") or {}).get("analysis"):
        raise ValueError(
            "model.distill.analysis runs the student outside of a training step, where ZeRO-3 "
            "keeps only a part of its weights: set engine.zero_stage=2, or analysis=null."
        )


def engine_config(
    section: Mapping[str, Any], model: Mapping[str, Any], data_parallel: int
) -> dict[str, Any]:
    """DeepSpeed's configuration.

    Args:
        section: ``cfg.engine``, checked.
        model: the section ``model``.
        data_parallel: ranks that hold copies of the model.

    Raises:
        ValueError: ``engine.config`` sets what another key of ours decides.
    """
    stage, optim = int(section.get("zero_stage") or 0), model["optim"]
    micro, total = int(model["micro_batch_size"]), int(model["global_batch_size"])
    zero: dict[str, Any] = {"stage": stage}
    memory = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if section.get("offload_optimizer"):
        zero["offload_optimizer"] = memory
    if section.get("offload_parameters"):
        zero["offload_param"] = memory
    made: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": total // (micro * data_parallel),
        "gradient_clipping": float(optim.get("clip_grad", 1.0)),
        "zero_optimization": zero,
        # torch's Adam runs where DeepSpeed's own would have to be compiled
        "zero_force_ds_cpu_optimizer": False,
        **_precision(precision_name(model.get("precision", 32)), stage, optim),
    }
    given: Any = section.get("config") or {}
    if isinstance(given, DictConfig):
        given = OmegaConf.to_container(given, resolve=True)
    for key, instead in _OURS.items():
        if _has(given, key):
            raise ValueError(f"engine.config.{key} is decided by {instead}: leave it out.")
    return _merged(made, given)


def _precision(name: str, stage: int, optim: Mapping[str, Any]) -> dict[str, Any]:
    if name == "32":
        return {}
    # stage 0 cannot sum up half-precision gradients in fp32, see DeepSpeed's `data_types`
    wide = {"data_types": {"grad_accum_dtype": "fp32"}} if stage > 0 else {}
    if name == "bf16":
        return {"bf16": {"enabled": True}, **wide}
    start = float(optim.get("initial_loss_scale", 2.0**16))
    if start < 1 or not math.log2(start).is_integer():
        raise ValueError(f"model.optim.initial_loss_scale={start}: DeepSpeed needs a power of two.")
    scaling = {
        "enabled": True,
        "loss_scale": 0,  # dynamic
        "initial_scale_power": int(math.log2(start)),
        "min_loss_scale": float(optim.get("min_loss_scale", 1.0)),
        "loss_scale_window": int(optim.get("loss_scale_window", 1000)),
        "hysteresis": int(optim.get("hysteresis", 2)),
    }
    return {"fp16": scaling, **wide}


def _has(config: Mapping[str, Any], dotted: str) -> bool:
    here: Any = config
    for word in dotted.split("."):
        if not isinstance(here, Mapping) or word not in here:
            return False
        here = here[word]
    return True


def _merged(made: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(made)
    for key, value in given.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
