"""Lightning's and NeMo's spellings of a precision, and what they mean here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_SPELLINGS = {
    "32": ("32", "32-true", "fp32"),
    "bf16": ("bf16", "bf16-mixed", "bf16-true"),
    "16": ("16", "16-mixed", "16-true", "fp16"),
}


def precision_name(value: Any) -> str:
    """``"32"``, ``"bf16"`` or ``"16"``.

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
    raise ValueError(f"trainer.precision={value} is unknown: choose one of {known}")


def check_precision(model: Mapping[str, Any]) -> None:
    """Refuses a precision that cannot be had, with the reason.

    Raises:
        ValueError: unknown spelling, O1, or fp8 without CUDA and Transformer Engine.
    """
    name = precision_name(model.get("precision", 32))
    if name != "32" and model.get("megatron_amp_O2") is False:
        raise ValueError(
            "model.megatron_amp_O2=false: half precision here always keeps fp32 main weights "
            "(O2); set it to true."
        )
    if model.get("fp8") and not torch.cuda.is_available():
        raise ValueError(
            "model.fp8=true needs a CUDA device and Transformer Engine, and this machine has no "
            "CUDA device: set model.fp8=false."
        )
