"""``--student_model=mgskd``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


class _Normals(random.Random):
    """Gives recorded Gaussians one after the other."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(0)
        self._values = iter(values)

    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        return mu + sigma * next(self._values)


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    if "mgskd_wo_inter" in flags:
        return predictions
    mgskd = {
        "method": "mgskd",
        "sample": float(flags.get("mgskd_weight_sample", 4)),
        "token": float(flags.get("mgskd_weight_token", 1)),
        "span": float(flags.get("mgskd_weight_span", 1)),
        "sample_from": int(flags.get("mgskd_sample_level_m", 2)),
        "relation_heads": int(flags.get("mgskd_multi_heads", 64)),
        "anchors": int(flags.get("mgskd_triplet_k1", 20)),
        "neighbours": int(flags.get("mgskd_triplet_k2", 20)),
        "span_share": float(flags.get("mgskd_span_max_rate", 0.4)),
    }
    return {**predictions, "mgskd": mgskd}


def _draws(
    record: Mapping[str, Any], tensors: Mapping[str, Any], what: tuple[object, ...]
) -> random.Random:
    return _Normals(record["rng"]["torch_normal_draws"][0])


TRANSLATION = Translation(
    _terms, parts={r"inter_loss/hidden_states\.(\d+)": Logged(r"mgskd/*.\1")}, draws=_draws
)
