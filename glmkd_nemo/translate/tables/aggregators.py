"""Options of what combines several teachers."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, flag, idle, mapped

_KEY = "model.distill.aggregator"
_RECOMPUTE = "recompute is chosen by model.activations_checkpoint_granularity"

OPTIONS: Table = {
    "multi_teacher_model": mapped("aggregator=NAME"),
    "avgmt_inter_checkpoint": idle(_RECOMPUTE, "flag"),
    "avgmt_pre_checkpoint": idle(_RECOMPUTE, "flag"),
    "avgmt_sum_loss": flag(f"{_KEY}.sum"),
    "avgmt_teacher_survival_p": mapped(f"{_KEY}.survival"),
    "mt_bert_fit_teacher": flag("model.distill.terms.pkd.project=teacher"),
    "mt_bert_wo_hard": flag("model.distill.terms.hard"),
    "mt_bert_wo_convert_layer": flag("model.distill.terms.pkd.project=none"),
    "mt_bert_fix_layernorm": flag("model.distill.terms.pkd.fix_layernorm"),
    "uncertainty_wo_loss_mask": flag(f"{_KEY}.mask=none"),
    "uncertainty_only_mask_pad": flag(f"{_KEY}.mask=pad_labels"),
    "uncertainty_inter_entropy": flag(f"{_KEY}.inter_entropy"),
    "uncertainty_teacher_seq": mapped(f"{_KEY}.order"),
    "uncertainty_hard": flag(f"{_KEY}.hard"),
    "uncertainty_wo_rate": flag(f"{_KEY}.select=false"),
    "uncertainty_wo_hard": flag("model.distill.terms.hard"),
    "rl_kd_wo_loss_mask": flag(f"{_KEY}.mask=none"),
    "rl_kd_only_mask_pad": flag(f"{_KEY}.mask=pad_labels"),
    "rl_kd_reward": mapped(f"{_KEY}.reward"),
    "rl_kd_semantic_model": mapped(f"{_KEY}.semantic_teacher"),
    "rl_kd_semantic_model_dim": mapped(f"{_KEY}.semantic_size"),
    "rl_kd_only_avg": flag(f"{_KEY}.phase=average"),
    "rl_kd_wo_hard": flag("model.distill.terms.hard"),
    "rl_kd_alpha": mapped(f"{_KEY}.alpha"),
    "mixmt_model": mapped(f"{_KEY}.members"),
}
