"""Options that say what the teachers are."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, flag, idle, mapped

_SIZES = "the teacher's .nemo has its sizes"

OPTIONS: Table = {
    "teacher_num_attention_heads": mapped("convert_checkpoint.py of the teacher", 16),
    "teacher_hidden_size": idle(_SIZES),
    "teacher_num_layers": mapped("convert_checkpoint.py of the teacher, with shared layers", 24),
    "teacher_max_position_embeddings": idle(_SIZES),
    "teacher_load_pretrained": mapped("model.teachers.t0.restore_from_path"),
    "teacher_fp16": flag(
        "model.teachers.t0.precision=16, and of the others, with a student in fp32"
    ),
    "teacher_inverted_bottleneck_mode": idle(_SIZES, "flag"),
    "teacher_ib_hidden_size": idle(_SIZES),
    "teacher_ib_ffn_num": idle(_SIZES),
    "teacher_ib_word_emb": idle(_SIZES),
    "teacher_compress_word_emb": idle(_SIZES),
    "teacher_map_vocab_size": idle(_SIZES),
    "teacher_cross_layer_parameter_sharing": flag("convert_checkpoint.py of the teacher"),
    "teacher_random_para": absent("a teacher always has trained weights", "flag"),
    "mt_num_attention_heads": mapped("convert_checkpoint.py of the teachers"),
    "mt_hidden_size": idle(_SIZES),
    "mt_num_layers": mapped("convert_checkpoint.py of the teachers, with shared layers"),
    "mt_max_position_embeddings": idle(_SIZES),
    "mt_load_pretrained": mapped("model.teachers.t0, t1, ..., restore_from_path"),
    "mt_ib_hidden_size": idle(_SIZES),
    "mt_ib_ffn_num": idle(_SIZES),
    "mt_ib_word_emb": idle(_SIZES),
    "mt_compress_word_emb": idle(_SIZES),
    "mt_map_vocab_size": idle(_SIZES),
    "mt_disable_operation": idle("a teacher runs only as far as a loss reads it"),
    "mt_model_load": absent("an aggregator's weights come with the student's checkpoint only"),
    "mt_has_loss": idle("a teacher's own loss is computed where an aggregator needs it", "flag"),
    "mt_has_grad": flag("model.teachers.t0.trainable=true, and of the others"),
    "student_use_empty_glm": absent("a student always is a model of its own", "flag"),
    "mt_load_from_s": absent("trainable teachers are not saved with their student"),
}
