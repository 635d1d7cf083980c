"""Group ``finetune``."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, flag, idle, mapped

_PROMPT = "continuous prompts are not built here"
_SMALL = "folder of FewGLUE: give task.train and task.valid the names of its files"

OPTIONS: Table = {
    "task": mapped("task=NAME"),
    "load-pretrained": mapped("restore_from_path, of the converted weights"),
    "pool-token": mapped("task.pool", "cls"),
    "cloze-eval": flag("task.cloze=true"),
    "multi-token": flag("task.multi_token=true"),
    "segment-length": absent("sequences are not cut into segments"),
    "loss-func": mapped("model.distill.terms.hard.loss", "cross_entropy"),
    "block-lm-ratio": absent("pre-training is not mixed into fine-tuning"),
    "adapet": flag("model.distill.terms.hard.loss=adapet"),
    "pattern-id": mapped("task.pattern_id", 0),
    "fast-decode": flag("task.fast_decode=true"),
    "few-superglue": absent(_SMALL, "flag"),
    "eval-valid": idle("the development set is always evaluated", "flag"),
    "validation-metric": absent("the best weights are those by the task's main metric"),
    "unidirectional": flag("task.unidirectional"),
    "src-seq-length": mapped("task.max_src_length"),
    "tgt-seq-length": mapped("task.max_tgt_length"),
    "adam-beta1": mapped("model.optim.betas", 0.9),
    "adam-beta2": mapped("model.optim.betas", 0.999),
    "adam-eps": mapped("model.optim.eps", 1e-8),
    "optimizer": mapped("model.optim.name; Adafactor has no equivalent", "adam"),
    "wsc-negative": flag("task=wsc; without it task=wsc_generative"),
    "overwrite": idle("a run goes on in its folder; choose another name for a new one", "flag"),
    "no-validation": absent("the best weights on the development set are what is kept", "flag"),
    "continuous-prompt": absent(_PROMPT, "flag"),
    "num-prompt-tokens": absent(_PROMPT),
    "prompt-func": absent(_PROMPT),
    "freeze-transformer": absent("all weights of a student are trained", "flag"),
    "tune-prefix-layers": absent("all weights of a student are trained"),
    "prefix-prompt": absent(_PROMPT),
    "prompt-init": absent(_PROMPT, "flag"),
}
