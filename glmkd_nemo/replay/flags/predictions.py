"""Options on soft and hard labels, which every student model of the reference has."""

from __future__ import annotations

from typing import Any

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms

PARTS = {
    r"pre_loss/[pf]t_soft": Logged("soft/soft"),
    r"pre_loss/[pf]t_hard": Logged("hard/hard"),
    r"inter_loss/logits_parallel": Logged("logits/soft"),
}


def prediction_terms(flags: Flags, setting: Setting) -> Terms:
    """The terms ``soft``, ``hard`` and ``logits`` as far as the options ask for them."""
    stage = "pt" if setting.stage == "pt" else "ft"
    classes = setting.stage in ("ft_multi", "ft_single")
    of = {"of": "classes"} if classes else {}
    terms: Terms = {}
    if f"distill_{stage}_soft" in flags:
        terms["soft"] = {
            "method": "kd",
            "loss": _loss(flags, stage),
            "temperature": temperature(flags),
            "mask": "none" if classes else _mask(flags),
            "weight": float(flags.get("distill_soft_rate", 1)),
            **of,
        }
    if f"distill_{stage}_hard" in flags:
        weight = float(flags.get("distill_hard_rate", 1))
        loss = {"loss": hard_loss(flags)} if classes else {}
        terms["hard"] = {"method": "hard", "weight": weight, **of, **loss}
    if "distill_logits_parallel" in flags:
        terms["logits"] = logits_parallel(flags)
    return {name: term for name, term in terms.items() if term.get("weight", 1.0) != 0.0}


def hard_loss(flags: Flags) -> str:
    """The hard loss of a task's answers, by our name."""
    named = flags.get("loss-func", flags.get("loss_func", "cross_entropy"))
    return "adapet" if "adapet" in flags else str(named)


def logits_parallel(flags: Flags) -> dict[str, Any]:
    """The term of ``distill_logits_parallel``: token logits, at every stage."""
    return {
        "method": "kd",
        "loss": "mse" if "distill_logit_mse" in flags else "kl",
        "temperature": temperature(flags),
        "mask": "pad_positions" if "distill_logit_mask_pad" in flags else "none",
        "mask_map": masks_map(flags),
    }


def masks_map(flags: Flags) -> bool:
    """Whether logits are compared at the student's kept tokens only; without a map it is idle."""
    return "distill_logit_mask_map" in flags and "map_vocab_size" in flags


def temperature(flags: Flags) -> float:
    """The distillation temperature."""
    return float(flags.get("distill_temperature", 1))


def _loss(flags: Flags, stage: str) -> str:
    if f"distill_{stage}_soft_mse" in flags:
        return "mse"
    if stage == "pt":
        return "ce" if "distill_pt_soft_ce" in flags else "kl"
    return "kl" if "distill_ft_soft_kl" in flags else "ce"


def _mask(flags: Flags) -> str:
    if "distill_wo_loss_mask" in flags:
        return "none"
    return "pad_labels" if "distill_only_mask_pad" in flags else "target"
