"""``--student_model=minilmv2``; no component is logged."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    if "minilmv2_wo_inter" in flags:
        return predictions
    minilmv2 = {
        "method": "minilmv2",
        "relation_heads": int(flags.get("minilmv2_relation_heads", 48)),
        "teacher_layer": int(flags.get("minilmv2_teacher_layer", 12)),
    }
    if "minilmv2_relation_heads_mt" not in flags:
        return {**predictions, "minilmv2": minilmv2}
    heads = str(flags["minilmv2_relation_heads_mt"]).split(",")  # one number for each teacher
    own = {
        f"minilmv2@t{i}": {**minilmv2, "relation_heads": int(n), "teacher": f"t{i}"}
        for i, n in enumerate(heads)
    }
    return {**predictions, **own}


TRANSLATION = Translation(_terms)
