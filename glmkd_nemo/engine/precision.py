"""Spellings of a precision, what they mean here, and Transformer Engine's fp8 recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_SPELLINGS = {
    "32": ("32", "32-true", "fp32"),
    "bf16": ("bf16", "bf16-mixed", "bf16-true"),
    "16": ("16", "16-mixed", "16-true", "fp16"),
}

FP8_RECIPES = ("delayed", "tensorwise", "blockwise", "mxfp8")
# what belongs to delayed scaling, with its defaults
_DELAYED = {"fp8_margin": 0, "fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"}


def precision_name(value: Any, key: str = "trainer.precision") -> str:
    """``"32"``, ``"bf16"`` or ``"16"``; messages name the ``key``.

    Half precision means half weights and activations with fp32 main weights and gradients
    (Megatron's O2); Lightning itself always runs at 32 and neither casts nor scales.

    Raises:
        ValueError: another spelling.
    """
    text = str(value).lower()
    for name, spellings in _SPELLINGS.items():
        if text in spellings:
            return name
    known = ", ".join(spelling for group in _SPELLINGS.values() for spelling in group)
    raise ValueError(f"{key}={value} is unknown: choose one of {known}")


def check_precision(model: Mapping[str, Any]) -> None:
    """Refuses a precision that cannot be had, with the reason; teachers' fp8 too.

    Raises:
        ValueError: unknown spelling, O1, fp8 without CUDA and Transformer Engine, or fp8 settings
            that would have no effect.
    """
    name = precision_name(model.get("precision", 32))
    if name != "32" and model.get("megatron_amp_O2") is False:
        raise ValueError(
            "model.megatron_amp_O2=false: half precision here always keeps fp32 main weights "
            "(O2); set it to true."
        )
    fp8_settings(model)
    for teacher, section in (model.get("teachers") or {}).items():
        frozen = not (section or {}).get("trainable")
        fp8_settings(section or {}, f"model.teachers.{teacher}", frozen)
        _check_device(section or {}, f"model.teachers.{teacher}")
        _check_teacher(section or {}, name, f"model.teachers.{teacher}")
    _check_device(model, "model")


def teacher_precision(section: Mapping[str, Any], student: Any, where: str) -> str:
    """Precision of a teacher: that of its section, or else its student's.

    Args:
        section: of ``model.teachers``.
        student: the student's.
        where: name of the section in messages.

    Raises:
        ValueError: an unknown spelling.
    """
    own = section.get("precision")
    return (
        precision_name(student or 32) if own is None else precision_name(own, f"{where}.precision")
    )


def _check_teacher(section: Mapping[str, Any], student: str, where: str) -> None:
    precision = teacher_precision(section, student, where)
    trains = bool(section.get("trainable"))
    if trains and precision != student:
        raise ValueError(
            f"{where}.precision={precision}: a trainable teacher is trained with its student, at "
            f"{student}: leave its precision null, or set trainable=false."
        )
    if not section.get("offload"):
        return
    if trains:
        raise ValueError(
            f"{where}.offload=true: only a frozen teacher's weights can stay in the host's memory: "
            "set offload=false, or trainable=false."
        )
    if section.get("fp8"):
        raise ValueError(
            f"{where}.offload=true with fp8=true: Transformer Engine keeps fp8 copies of the "
            "weights on the device, so that nothing would be saved: choose one of the two."
        )
    if not torch.cuda.is_available():
        raise ValueError(
            f"{where}.offload=true needs a CUDA device, and this machine has none: weights are in "
            "the host's memory anyway. Set it to false."
        )


def _check_device(section: Mapping[str, Any], where: str) -> None:
    if section.get("fp8") and not torch.cuda.is_available():
        raise ValueError(
            f"{where}.fp8=true needs a CUDA device and Transformer Engine, and this machine has no "
            f"CUDA device: set {where}.fp8=false."
        )


def fp8_settings(
    section: Mapping[str, Any], where: str = "model", frozen: bool = False
) -> dict[str, Any]:
    """Megatron-Core's fp8 fields from NeMo's keys; empty without fp8.

    Recipes are Transformer Engine's: ``delayed`` scales by the largest values of past steps
    (``fp8_amax_*``, ``fp8_margin``), ``tensorwise``, ``blockwise`` and ``mxfp8`` by those of the
    tensor at hand.

    Args:
        section: with the keys ``fp8*``.
        where: its name in messages.
        frozen: it is of a model that is never trained.

    Raises:
        ValueError: settings that contradict each other, or that would have no effect.
    """
    formats = [key for key in ("fp8_e4m3", "fp8_hybrid") if section.get(key)]
    if not section.get("fp8"):
        if formats:
            raise ValueError(f"{where}.{formats[0]}=true has no effect without {where}.fp8=true.")
        return {}
    if len(formats) > 1:
        raise ValueError(f"{where}: choose one of fp8_e4m3=true and fp8_hybrid=true.")
    recipe = section.get("fp8_recipe") or "delayed"
    if recipe not in FP8_RECIPES:
        known = ", ".join(FP8_RECIPES)
        raise ValueError(f"{where}.fp8_recipe={recipe} is unknown: choose one of {known}.")
    if frozen and recipe == "delayed":
        raise ValueError(
            f"{where}.fp8_recipe=delayed: its scales follow from training steps, and a frozen "
            "model, which has none, would keep the first ones: choose tensorwise."
        )
    if section.get("activations_checkpoint_granularity") == "full":
        raise ValueError(
            f"{where}.fp8=true with activations_checkpoint_granularity=full: a recomputed layer "
            "would count its largest values twice. Set it to selective or null."
        )
    found = {key: section.get(key) or default for key, default in _DELAYED.items()}
    if recipe != "delayed" and (changed := [k for k, v in found.items() if v != _DELAYED[k]]):
        raise ValueError(
            f"{where}.{changed[0]} has no effect with fp8_recipe={recipe}: leave it out, or "
            "choose delayed."
        )
    kind = "e4m3" if section.get("fp8_e4m3") else "hybrid"
    return {"fp8": kind, "fp8_recipe": recipe, **found}
