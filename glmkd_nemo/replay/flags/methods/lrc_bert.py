"""``--student_model=lrc_bert``."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    alpha = float(flags.get("lrc_bert_alpha", 1))
    if alpha <= 0:
        return predictions
    perturb = "lrc_bert_gard_perturb" in flags
    twice = int(flags.get("forward_repeat_num", 0)) == 1 and "ignore_first_backward_gard" in flags
    if perturb and not twice:
        raise ValueError(
            "--lrc_bert_gard_perturb has no effect without --forward_repeat_num=1 and "
            "--ignore_first_backward_gard: give all three, or none."
        )
    lrc_bert = {
        "method": "lrc_bert",
        "weight": alpha,
        "grad_perturb": perturb,
        "gather_dp": "lrc_bert_gather_dp" in flags,
    }
    return {**predictions, "lrc_bert": lrc_bert}


TRANSLATION = Translation(
    _terms,
    parts={r"inter_loss/hidden_states\.\d+": Logged("lrc_bert/hidden_states.*")},
    parameters={r"s_fit_dense\.(\d+)\.(\w+)": r"lrc_bert@t\1.fit_dense.\2"},
)
