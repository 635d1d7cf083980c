"""``--student_model=minilm``: no options of its own, and no component is logged."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    return {**predictions, "minilm": {"method": "minilm"}}


TRANSLATION = Translation(_terms)
