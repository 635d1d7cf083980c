"""Group ``custom`` of GLMKD's own."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, flag, idle, mapped

_SET = "set by the original's own code"
_SHARDED = "Megatron-Core shards the optimizer's state over data-parallel ranks (ZeRO stage 1)"

OPTIONS: Table = {
    "spare_port": idle("Lightning chooses a port"),
    "custom_tmp_result": idle("results.json in the run's folder has the scores"),
    "custom_first_eval": flag("evaluate_first=true"),
    "custom_logits_paralle": idle(_SET, "flag"),
    "custom_current_epoch": idle(_SET),
    "custom_no_save_checkpoint": absent("a run always leaves its weights", "flag"),
    "custom_no_summary_writer": flag("exp_manager.create_tensorboard_logger=false"),
    "forward_repeat_num": mapped(
        "model.distill.random_data.extra, and the methods with two passes"
    ),
    "forward_repeat_current_n": idle(_SET),
    "ignore_first_backward_gard": flag("model.distill.terms.lrc_bert.grad_perturb"),
    "ft_final_save": idle("the newest checkpoint is kept beside the best weights", "flag"),
    "save_interval_time": idle("checkpoints are saved at each validation"),
    "zero_stage": idle(_SHARDED),
    "cpu_offload": idle(_SHARDED, "flag"),
    "args_to_ds_config": flag("options of the command line win over the DeepSpeed file"),
    "fix_variable_num_choices": flag("task.fixed_choices=true"),
    "current_gradient_accumulation_steps": idle(_SET),
    "single_step": idle(_SET, "flag"),
    "map_vocab_size": mapped("model.vocab_map.size"),
    "unmap_vocab_output": flag("model.vocab_map.unmap_output"),
    "inverted_bottleneck_mode": flag("model.bottleneck_size"),
    "ib_hidden_size": mapped("model.bottleneck_size", 128),
    "ib_ffn_num": mapped("model.bottleneck_ffns", 4),
    "ib_word_emb": mapped("model.bottleneck_word_embedding", 0),
    "compress_word_emb": mapped("model.embedding_size", 0),
    "cross_layer_parameter_sharing": flag("model.share_layers"),
}
