"""Groups ``model`` and ``fp16``."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, copied, flag, idle, mapped

_UNREAD = "the original's GLM does not read it"
_RANGE = "the dynamic loss scale of Megatron-Core is used"

OPTIONS: Table = {
    "transformer-xl": absent("GLM with memory (Transformer-XL) is not built here", "flag"),
    "pretrained-bert": absent("models that are no GLM are not built here", "flag"),
    "encoder-decoder": flag("model.data.block_infilling.encoder_decoder"),
    "attention-dropout": copied("model.attention_dropout", 0.1),
    "num-attention-heads": mapped("model=NAME, or model.num_attention_heads", 16),
    "hidden-size": mapped("model=NAME, or model.hidden_size", 1024),
    "intermediate-size": idle(f"{_UNREAD}: 4 x hidden_size (here model.ffn_hidden_size)"),
    "num-layers": mapped("model=NAME, or model.num_layers", 24),
    "layernorm-epsilon": idle(f"{_UNREAD}: 1e-5 (here model.layernorm_epsilon)"),
    "hidden-dropout": copied("model.hidden_dropout", 0.1),
    "output-dropout": copied("task.dropout", 0.1),
    "max-position-embeddings": mapped("model=NAME, or model.max_position_embeddings", 512),
    "vocab-size": idle("the tokenizer says how large the vocabulary is"),
    "deep-init": idle("no code of the original reads it", "flag"),
    "make-vocab-size-divisible-by": mapped("model.make_vocab_size_divisible_by", 128),
    "cpu-optimizer": absent("the optimizer runs where the model does", "flag"),
    "cpu_torch_adam": absent("the optimizer runs where the model does", "flag"),
    "fp16": flag("trainer.precision=16"),
    "fp32-embedding": idle("no code of the original's GLM reads it", "flag"),
    "fp32-layernorm": idle("no code of the original's GLM reads it", "flag"),
    "fp32-tokentypes": idle("no code of the original's GLM reads it", "flag"),
    "fp32-allreduce": idle("of --DDP-impl=local only; Megatron-Core reduces in fp32", "flag"),
    "hysteresis": copied("model.optim.hysteresis", 2),
    "loss-scale": absent(f"{_RANGE} (model.optim.initial_loss_scale)"),
    "loss-scale-window": copied("model.optim.loss_scale_window", 1000),
    "min-scale": idle(f"{_RANGE}, never below 1"),
    "attention-scale": copied("model.attention_scale", 1.0),
}
