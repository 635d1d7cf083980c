"""``--student_model=rail_kd``.

``rail_kd_layer_wise_alpha`` has no effect in the reference and ``rail_kd_show_hook_change`` only
prints: neither exists here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

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


class _Layers(random.Random):
    """Gives the recorded layers, as far as they are inner ones."""

    def __init__(self, layers: list[int]) -> None:
        super().__init__(0)
        self._layers = layers

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        return [layer for layer in self._layers if layer in population][:k]


def _draws(
    record: Mapping[str, Any], tensors: Mapping[str, Any], what: tuple[object, ...]
) -> random.Random:
    method, _, teacher = str(what[0]).partition(" ")
    if method != "rail_kd":  # not the layers
        return random.Random(0)
    layers = record["teacher_hooks"][0][int(teacher)]["transformer"]["layers"]
    return _Layers(sorted(int(i) for i in layers))


TRANSLATION = Translation(
    _terms,
    parts={r"inter_loss/hidden_states": Logged("rail_kd/hidden_states", weighted=False)},
    parameters={
        r"(s_fit_dense\.\w+)": r"rail_kd@t0.\1",
        r"t_fit_dense_(\d+)\.(\w+)": r"rail_kd@t\1.t_fit_dense.\2",
    },
    draws=_draws,
)
