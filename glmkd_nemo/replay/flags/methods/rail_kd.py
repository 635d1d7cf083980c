"""``--student_model=rail_kd``.

``rail_kd_layer_wise_alpha`` has no effect in the reference and ``rail_kd_show_hook_change`` only
prints: neither exists here.
"""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    rail_kd = {
        "method": "rail_kd",
        "weight": float(flags.get("rail_kd_inter_rate", 0.3334)),
        "concatenated": "rail_kd_concatenated" in flags,
        "projection_size": int(flags.get("rail_kd_u", 128)),
        "embedding": "rail_kd_has_embed" in flags,
        "final": "rail_kd_has_final" in flags,
        "random_layers": "rail_kd_no_random" not in flags,
        "random_every_epochs": int(flags.get("rail_kd_epochs", 1)),
        "random_every_steps": int(flags.get("rail_kd_iters", 3000)),
    }
    return {**predictions, "rail_kd": rail_kd}


TRANSLATION = Translation(
    _terms,
    parts={r"inter_loss/hidden_states": Logged("rail_kd/hidden_states", weighted=False)},
    parameters={
        r"(s_fit_dense\.\w+)": r"rail_kd@t0.\1",
        r"t_fit_dense_(\d+)\.(\w+)": r"rail_kd@t\1.t_fit_dense.\2",
    },
)
