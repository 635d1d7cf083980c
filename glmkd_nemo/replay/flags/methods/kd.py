"""``--student_model=kd``: soft and hard labels only."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    return predictions


TRANSLATION = Translation(_terms)
