"""``--student_model=logitsdistil``: GLMD."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation
from glmkd_nemo.replay.flags.predictions import masks_map, temperature


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    if "logitsdistil_wo_inter" in flags:
        return predictions
    n = flags.get("logitsdistil_top_n")
    glmd = {
        "method": "glmd",
        "temperature": temperature(flags),
        "mask_pad": "logitsdistil_mask_pad" in flags,
        "mask_a": "logitsdistil_mask_a" in flags,
        "loss": "mse" if "logitsdistil_mse" in flags else "kl",
        "mask_map": masks_map(flags),
        "teacher_input_map": "logitsdistil_teacher_input_ids_map" in flags
        and "map_vocab_size" in flags,
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
