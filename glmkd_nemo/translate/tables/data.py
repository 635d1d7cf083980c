"""Group ``data``."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, copied, flag, idle, mapped, several

_CSV = "of the original's csv and json readers, which GLM's corpora do not use"
_BERT = "of the original's BERT data only"
_LAZY = "indexed corpora are memory-mapped"
_MULTI = "tasks are not mixed into pre-training"

OPTIONS: Table = {
    "model-parallel-size": mapped("model.tensor_model_parallel_size", 1),
    "shuffle": idle("training data are always shuffled, by model.seed", "flag"),
    "filter-english": absent("filter the text before scripts/preprocess_data.py", "flag"),
    "train-data": several("model.data.prefixes"),
    "valid-data": several("model.data.valid_prefixes, or task.valid_file"),
    "test-data": several("model.data.test_prefixes, or task.test_file"),
    "data-dir": mapped("task.data_dir"),
    "input-data-sizes-file": idle("no code of the original reads it"),
    "delim": idle(_CSV),
    "text-key": idle(_CSV),
    "eval-text-key": idle(_CSV),
    "split": mapped("model.data.split", "1000,1,1"),
    "no-lazy-loader": idle(_LAZY, "flag"),
    "half-lazy-loader": idle(_LAZY, "flag"),
    "loader-scatter": idle(_LAZY),
    "loose-json": idle(_CSV, "flag"),
    "presplit-sentences": idle(_BERT, "flag"),
    "num-workers": mapped("model.data.num_workers (pre-training)", 2),
    "tokenizer-model-type": mapped("model.tokenizer.path"),
    "tokenizer-path": idle("the original's GLM tokenizers do not read it"),
    "tokenizer-type": mapped("tokenizer=bert, gpt2 or chinese", "BertWordPieceTokenizer"),
    "fix-command-token": flag("model.tokenizer.fix_command_token"),
    "no-pre-tokenize": idle("scripts/preprocess_data.py tokenises once", "flag"),
    "cache-dir": idle("vocabularies are never downloaded: give model.tokenizer.path"),
    "use-tfrecords": absent("TFRecords cannot be read: index the text", "flag"),
    "seq-length": mapped("model.data.window and model.encoder_seq_length, or task.seq_length", 512),
    "mem-length": idle("of --transformer-xl only"),
    "max-preds-per-seq": idle(_BERT),
    "non-sentence-start": copied("model.data.non_sentence_start", 0.0),
    "sample-one-document": flag("model.data.sample_across_documents=false"),
    "load-splits": absent("documents are split by their number, the same in every run"),
    "save-splits": absent("documents are split by their number, the same in every run"),
    "save-test-data": absent("write the text of test documents with a program of yours"),
    "multi-task-data": absent(_MULTI, "values"),
    "multi-task-ratio": absent(_MULTI),
    "multi-seq-length": absent(_MULTI),
    "multi-batch-size": absent(_MULTI),
}
