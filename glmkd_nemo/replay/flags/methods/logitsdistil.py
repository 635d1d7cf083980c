"""``--student_model=logitsdistil``: GLMD."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation
from glmkd_nemo.replay.flags.predictions import temperature


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    if "logitsdistil_wo_inter" in flags:
        return predictions
    n = flags.get("logitsdistil_top_n")
    glmd = {
        "method": "glmd",
        "temperature": temperature(flags),
        "mask_pad": "logitsdistil_mask_pad" in flags,
        "mask_a": "logitsdistil_mask_a" in flags,
        "mse": "logitsdistil_mse" in flags,
        "top_n": None if n is None else float(n),
        "teacher_min": "logitsdistil_teacher_min" in flags,
    }
    return {**predictions, "glmd": glmd}


TRANSLATION = Translation(
    _terms,
    parts={
        r"inter_loss/s_logits_threshold": Logged("glmd/top_n"),
        r"inter_loss/logits_parallel": Logged("glmd/logits"),
    },
)
