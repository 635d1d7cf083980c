"""``--student_model=mobilebert``; soft and hard labels wait for it."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    mobilebert = {
        "method": "mobilebert",
        "weight": float(flags.get("mobilebert_kd_w", 0.5)),
        "lower_weight": float(flags.get("mobilebert_pkt_small_lr", 0.1)),
        "steps": int(flags.get("lr-decay-iters", 0)),
    }
    waiting = {
        name: term if name == "logits" else {**term, "after": "mobilebert"}
        for name, term in predictions.items()
    }
    return {**waiting, "mobilebert": mobilebert}


TRANSLATION = Translation(
    _terms,
    parts={
        r"inter_loss/((?:attention_scores|hidden_states)\.\d+)": Logged(
            r"mobilebert/\1", term_weighted=False
        )
    },
)
