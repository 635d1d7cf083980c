"""``--student_model=sid``; soft and hard labels wait for it."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    sid = {
        "method": "sid",
        "even": flags.get("sid_lim_e", "avg") == "avg",
        "threshold": float(flags.get("sid_accumulate_t", 0)),
    }
    waiting = {
        name: term if name == "logits" else {**term, "after": "sid"}
        for name, term in predictions.items()
    }
    return {**waiting, "sid": sid}


TRANSLATION = Translation(
    _terms,
    parts={r"inter_loss/((?:attention_scores|hidden_states)\.\d+)": Logged(r"sid/\1")},
)
