"""``--student_model=theseus``: the task's hard labels only, which the reference too needs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from glmkd_nemo.replay.flags import Flags, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    theseus = {
        "method": "theseus",
        "replacing_rate": float(flags.get("theseus_replacing_rate", 0.3)),
        "until": float(flags.get("theseus_not_replaced_steps", 0.66)),
    }
    return {**predictions, "theseus": theseus}


class _Recorded(random.Random):
    """Layer by layer, the recorded teacher (or ``None``: the student's own layer is there)."""

    def __init__(self, layers: Sequence[int | None]) -> None:
        super().__init__(0)
        self._left = list(layers)

    def random(self) -> float:
        if self._left[0] is not None:
            return 1.0  # above every replacing rate; `choice` then gives the teacher
        self._left.pop(0)
        return 0.0

    def choice(self, seq: Any) -> Any:
        return seq[self._left.pop(0)]


def _draws(
    record: Mapping[str, Any], tensors: Mapping[str, Any], what: tuple[object, ...]
) -> random.Random:
    return _Recorded(record["rng"]["theseus_tn_layers"])


TRANSLATION = Translation(_terms, draws=_draws)
