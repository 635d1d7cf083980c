"""``--student_model=annealing_kd``."""

from __future__ import annotations

from typing import Any

from glmkd_nemo.replay.flags import Flags, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    soft = annealed(flags, setting, predictions["soft"])
    soft["max_t"] = float(flags.get("annealing_kd_max_t", 7))
    return {**predictions, "soft": {"method": "annealing_kd", **soft}}


def annealed(flags: Flags, setting: Setting, soft: dict[str, Any]) -> dict[str, Any]:
    """What a soft term gives to one with annealed logits: ``weight``, ``mask`` and ``of``.

    Raises:
        ValueError: another loss than the squared error, which the reference does not anneal.
    """
    if soft["loss"] != "mse":
        raise ValueError(
            f"{flags['student_model']} anneals the squared error of logits only: set "
            f"--distill_{'pt' if setting.stage == 'pt' else 'ft'}_soft_mse, or --student_model=kd."
        )
    kept = {key: value for key, value in soft.items() if key in ("weight", "mask", "of")}
    # in fine-tuning the reference's squared error ignores its mask (golden README)
    return kept if setting.stage == "pt" else {**kept, "mask": "none"}


TRANSLATION = Translation(_terms)
