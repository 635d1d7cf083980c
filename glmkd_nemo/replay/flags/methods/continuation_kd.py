"""``--student_model=continuation_kd``."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation
from glmkd_nemo.replay.flags.methods.annealing_kd import annealed


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    rates = {float(flags.get(f"distill_{kind}_rate", 1)) for kind in ("soft", "hard")}
    if rates != {1.0} or not {"soft", "hard"} <= predictions.keys():
        raise ValueError(
            "continuation_kd weighs soft and hard labels by itself: it needs both, without "
            "--distill_soft_rate and --distill_hard_rate."
        )
    others = {n: term for n, term in predictions.items() if n not in ("soft", "hard")}
    continuation = {
        "method": "continuation_kd",
        "max_t": float(flags.get("continuation_kd_max_t", 10)),
        "margin": float(flags.get("continuation_kd_margin", 1)),
        "psi_denominator": float(flags.get("continuation_kd_psi_denominator", 1.333)),
        "hard_after": float(flags.get("continuation_kd_psi_sep", 0.666)),
        **annealed(flags, setting, predictions["soft"]),
    }
    return {**others, "continuation_kd": continuation}


TRANSLATION = Translation(
    _terms,
    parts={
        r"pre_loss/[pf]t_soft": Logged("continuation_kd/soft", weighted=False),
        r"pre_loss/[pf]t_hard": Logged("continuation_kd/hard", weighted=False),
    },
)
