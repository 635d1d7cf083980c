"""``--student_model=distilbert``: it has weights of its own for soft and hard labels."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation
from glmkd_nemo.replay.flags.predictions import temperature

IGNORED = ("soft", "hard")


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    """Raises ``ValueError`` for options on labels that the reference accepts and ignores."""
    if ignored := [name for name in IGNORED if name in predictions]:
        raise ValueError(
            f"--distill_*_{ignored[0]} has no effect with --student_model=distilbert: set "
            "--distilbert_alpha_ce (soft labels) and --distilbert_alpha_mlm (hard labels)."
        )
    classes = setting.stage in ("ft_multi", "ft_single")
    of = {"of": "classes"} if classes else {}
    soft = {"method": "kd", "temperature": temperature(flags), **of}
    soft["mask"] = "none" if classes or "distill_wo_loss_mask" in flags else _mask(flags, "ce")
    terms: Terms = {
        "soft": {**soft, "weight": _alpha(flags, "ce")},
        "hard": {"method": "hard", "weight": _alpha(flags, "mlm"), **of},
    }
    if not classes:  # without a mask of tokens the reference leaves the cosine out
        terms["distilbert"] = {
            "method": "distilbert",
            "weight": _alpha(flags, "cos"),
            "mask": _mask(flags, "cos"),
            "fix_layernorm": "distilbert_fix_layernorm" in flags,
        }
    return {**predictions, **{name: term for name, term in terms.items() if term["weight"] > 0}}


def _alpha(flags: Flags, name: str) -> float:
    return float(flags.get(f"distilbert_alpha_{name}", 1))


def _mask(flags: Flags, name: str) -> str:
    return "pad_labels" if f"distilbert_{name}_mask_padding" in flags else "target"


TRANSLATION = Translation(
    _terms,
    parts={
        r"pre_loss/distilbert_alpha_ce": Logged("soft/soft"),
        r"pre_loss/distilbert_alpha_mlm": Logged("hard/hard"),
        r"inter_loss/distilbert_alpha_cos": Logged("distilbert/cosine"),
    },
    parameters={r"((?:t_)?layernorm\.\w+)": r"distilbert.\1"},
)
