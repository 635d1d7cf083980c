"""``--student_model=universal_kd``."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    if "universal_kd_wo_inter" in flags:
        return predictions
    universal_kd = {
        "method": "universal_kd",
        "weight": float(flags.get("universal_kd_gamma", 0.5)),
        "cg": "universal_kd_cg" in flags,
        "pooling": "mean" if "universal_kd_avg" in flags else "first",
        "projection_size": int(flags.get("universal_kd_size", 0)),
    }
    return {**predictions, "universal_kd": universal_kd}


TRANSLATION = Translation(
    _terms,
    parts={r"inter_loss/(hidden_states\.\d+)": Logged(r"universal_kd/\1")},
    parameters={
        r"(s_fit_dense\.\d+\.weight)": r"universal_kd@t0.\1",
        r"t_fit_dense_(\d+)\.(\d+\.weight)": r"universal_kd@t\1.t_fit_dense.\2",
    },
)
