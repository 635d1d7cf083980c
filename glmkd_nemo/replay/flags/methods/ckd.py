"""``--student_model=ckd``."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    ckd = {
        "method": "ckd",
        "word_distance": float(flags.get("ckd_wrdist_w", 1)),
        "word_angle": float(flags.get("ckd_wrangle_w", 10)),
        "layer_distance": float(flags.get("ckd_ltrdist_w", 1)),
        "layer_angle": float(flags.get("ckd_ltrangle_w", 10)),
        "window": int(flags.get("ckd_window_size", 21)),
    }
    return {**predictions, "ckd": ckd}


TRANSLATION = Translation(
    _terms,
    parts={
        r"inter_loss/wrdist": Logged("ckd/word_distance.*"),
        r"inter_loss/wrangle": Logged("ckd/word_angle.*"),
        r"inter_loss/ltrdist": Logged("ckd/layer_distance"),
        r"inter_loss/ltrangle": Logged("ckd/layer_angle"),
    },
)
