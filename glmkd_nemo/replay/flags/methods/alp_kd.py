"""``--student_model=alp_kd``; its only option, ``alp_kd_lambda``, has no effect there."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    return {**predictions, "alp_kd": {"method": "alp_kd"}}


TRANSLATION = Translation(_terms, parts={r"inter_loss/(hidden_states\.\d+)": Logged(r"alp_kd/\1")})
