"""The reference's command-line options as terms of our objective."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# logged name of the reference (without the teacher's suffix) -> our part, by what logs it
PART_NAMES = {
    "pre_loss/pt_soft": "soft/soft",
    "pre_loss/pt_hard": "hard/hard",
    "inter_loss/s_logits_threshold": "glmd/top_n",
}
METHODS = ("kd", "logitsdistil", "tinybert")


class NotYet(Exception):
    """A case that needs something which this version does not build; the message says what."""


def parse(flags: Iterable[str]) -> dict[str, str | bool]:
    """``["--a=1", "--b"] -> {"a": "1", "b": True}``."""
    pairs = (flag.removeprefix("--").partition("=") for flag in flags)
    return {name: value if sep else True for name, sep, value in pairs}


def pretraining_terms(flags: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``distill.terms`` for options of the reference's pre-training stage.

    Raises:
        NotYet: a method or option of a later version.
    """
    model = flags.get("student_model", "kd")
    if model not in METHODS:
        raise NotYet(f"method {model}")
    for name in ("map_vocab_size", "compress_word_emb", "cross_layer_parameter_sharing"):
        if name in flags:
            raise NotYet({"map_vocab_size": "vocabulary map"}.get(name, "compressed embedding"))
    if any(name.startswith(("mt_", "distill_random_data", "forward_repeat")) for name in flags):
        raise NotYet("several teachers or perturbed data")
    terms: dict[str, dict[str, Any]] = {}
    temperature = float(flags.get("distill_temperature", 1))
    if "distill_pt_soft" in flags:
        kind = "mse" if "distill_pt_soft_mse" in flags else "kl"
        terms["soft"] = {
            "method": "kd",
            "loss": "ce" if "distill_pt_soft_ce" in flags and kind == "kl" else kind,
            "temperature": temperature,
            "mask": _mask(flags),
            "weight": float(flags.get("distill_soft_rate", 1)),
        }
    if "distill_pt_hard" in flags:
        terms["hard"] = {"method": "hard", "weight": float(flags.get("distill_hard_rate", 1))}
    if "distill_logits_parallel" in flags:
        terms["logits"] = {
            "method": "kd",
            "loss": "mse" if "distill_logit_mse" in flags else "kl",
            "temperature": temperature,
            "mask": "pad_positions" if "distill_logit_mask_pad" in flags else "none",
        }
    if model == "logitsdistil" and "logitsdistil_wo_inter" not in flags:
        terms["glmd"] = _glmd(flags, temperature)
    if model == "tinybert" and "tinybert_wo_inter" not in flags:
        terms["tinybert"] = _tinybert(flags)
    return {name: term for name, term in terms.items() if term.get("weight", 1.0) != 0.0}


def _mask(flags: dict[str, Any]) -> str:
    if "distill_wo_loss_mask" in flags:
        return "none"
    return "pad_labels" if "distill_only_mask_pad" in flags else "target"


def _glmd(flags: dict[str, Any], temperature: float) -> dict[str, Any]:
    n = flags.get("logitsdistil_top_n")
    return {
        "method": "glmd",
        "temperature": temperature,
        "mask_pad": "logitsdistil_mask_pad" in flags,
        "mask_a": "logitsdistil_mask_a" in flags,
        "mse": "logitsdistil_mse" in flags,
        "top_n": None if n is None else float(n),
        "teacher_min": "logitsdistil_teacher_min" in flags,
    }


def _tinybert(flags: dict[str, Any]) -> dict[str, Any]:
    layers = "all"
    for flag, value in (
        ("tinybert_only_emb", "embedding"),
        ("tinybert_inter_final", "final"),
        ("tinybert_only_emb_final", "embedding_final"),
    ):
        layers = value if flag in flags else layers
    return {
        "method": "tinybert",
        "attention": "tinybert_wo_att" not in flags,
        "embedding": "tinybert_wo_emb" not in flags,
        "final": "tinybert_wo_final" not in flags,
        "layers": layers,
        "custom_final": int(flags.get("tinybert_custom_final", 1)),
        "random_layers": "tinybert_random_layers" in flags,
        "random_every_epochs": int(flags.get("tinybert_random_e", 1)),
        "random_every_steps": int(flags.get("tinybert_random_i", 3000)),
    }


def our_part(component: str, terms: dict[str, dict[str, Any]]) -> str | None:
    """Our part behind a component that the reference logged; ``None`` for what is no loss part."""
    name = component.rpartition("_t")[0] if component[-3:-1] == "_t" else component
    if name in PART_NAMES:
        return PART_NAMES[name]
    if name == "inter_loss/logits_parallel":
        return "glmd/logits" if "glmd" in terms else "logits/soft"
    group, _, part = name.partition("/")
    if group == "inter_loss" and part.startswith(("attention_scores.", "hidden_states.")):
        return f"tinybert/{part}"
    return None


def our_parameter(original: str) -> str:
    """Our name of a method's parameter: ``student.fit_dense.weight`` and the like."""
    return f"methods.tinybert.{original.removeprefix('student.')}"
