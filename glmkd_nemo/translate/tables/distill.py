"""Options of distillation that all methods of the original share."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, flag, idle, mapped

_SOFT, _HARD = "model.distill.terms: the soft labels", "model.distill.terms: the hard labels"
_LOGITS = "model.distill.terms.logits"

OPTIONS: Table = {
    "student_model": mapped("method=NAME"),
    "student_truncate_tn": mapped("model.student_init.teacher"),
    "student_build_map_vocab": flag("model.vocab_map.table"),
    "student_map_vocab_tn": mapped("model.vocab_map.teacher and replace"),
    "student_map_vocab_method": mapped("model.vocab_map.replace", "decoder"),
    "enable_parallel_entropy": idle(
        "losses are always computed on shards of the vocabulary", "flag"
    ),
    "distill_ft_soft": flag(_SOFT),
    "distill_ft_hard": flag(_HARD),
    "distill_pt_soft": flag(_SOFT),
    "distill_pt_hard": flag(_HARD),
    "distill_soft_rate": mapped(f"{_SOFT}, weight"),
    "distill_hard_rate": mapped(f"{_HARD}, weight"),
    "distill_temperature": mapped("temperature of the terms"),
    "distill_wo_loss_mask": flag(f"{_SOFT}, mask=none"),
    "distill_only_mask_pad": flag(f"{_SOFT}, mask=pad_labels"),
    "distill_ft_soft_kl": flag(f"{_SOFT}, loss=kl"),
    "distill_pt_soft_ce": flag(f"{_SOFT}, loss=ce"),
    "distill_ft_soft_mse": flag(f"{_SOFT}, loss=mse"),
    "distill_pt_soft_mse": flag(f"{_SOFT}, loss=mse"),
    "distill_logits_parallel": flag(_LOGITS),
    "distill_logit_mask_pad": flag(f"{_LOGITS}.mask=pad_positions"),
    "distill_logit_mask_map": flag("mask_map of the terms on logits"),
    "distill_logit_mse": flag(f"{_LOGITS}.loss=mse"),
    "distill_test_output": idle("it prints what the original's own tests look at", "flag"),
    "distil_analysis_inter": flag("model.distill.analysis.every_n_steps"),
    "distil_analysis_frcn": absent("the first pass of a step is what is analysed"),
    "distill_random_data": mapped("model.distill.random_data.mode"),
    "distill_random_data_n": mapped("model.distill.random_data.passes"),
    "distill_random_data_method": mapped("model.distill.random_data.how"),
}
