"""What auto_tune.py of the original has for its models, tasks and scripts."""

from __future__ import annotations

DATA = "../GLM/data"
_BERT = ["--tokenizer-type=BertWordPieceTokenizer"]
_BASE = [*_BERT, "--tokenizer-model-type=bert-base-uncased", "--max-position-embeddings=512"]
_LARGE = [*_BERT, "--tokenizer-model-type=bert-large-uncased", "--max-position-embeddings=512"]
_10B = [
    *("--task-mask", "--num-layers=48", "--hidden-size=4096", "--num-attention-heads=64"),
    "--max-position-embeddings=1024",
]


def _sizes(layers: int, hidden: int, heads: int) -> list[str]:
    return [f"--num-layers={layers}", f"--hidden-size={hidden}", f"--num-attention-heads={heads}"]


# options, folder of weights below DATA, DeepSpeed file, whether --fp16 is given
MODELS: dict[str, tuple[list[str], str, str]] = {
    "model_blocklm_base": (
        [*_sizes(12, 768, 12), *_BASE, "--fp16"],
        "checkpoints/pretrain/blocklm-base-blank",
        "config_tasks/config_blocklm_tiny6{}.json",
    ),
    "block_tiny6": (
        [*_sizes(6, 768, 12), *_BASE, "--fp16"],
        "checkpoints/pretrain/block_tiny6",
        "config_tasks/config_blocklm_tiny6{}.json",
    ),
    "model_blocklm_large": (
        [*_sizes(24, 1024, 16), *_LARGE, "--fp16"],
        "checkpoints/pretrain/blocklm-large-blank",
        "config_tasks/config_blocklm_large{}.json",
    ),
    "block_tiny4": (
        [*_sizes(4, 768, 12), *_BASE, "--fp16"],
        "checkpoints/pretrain/block_tiny4",
        "config_tasks/config_blocklm_tiny6{}.json",
    ),
    "block_tiny24_4": (
        [*_sizes(4, 768, 16), *_BASE],
        "checkpoints/pretrain/block_tiny4",
        "config_tasks/config_blocklm_tiny4_fp32{}.json",
    ),
    "model_blocklm_10B": (
        [*_10B, "--tokenizer-type=GPT2BPETokenizer", "--fp16"],
        "checkpoints/pretrain/blocklm-xxlarge",
        "config_tasks/config_blocklm_10B_1gpu{}.json",
    ),
    "model_blocklm_10B_chinese": (
        [*_10B, "--tokenizer-type=ChineseSPTokenizer", "--fp16"],
        "checkpoints/pretrain/blocklm-xxlarge-zh",
        "config_tasks/config_blocklm_10B_1gpu{}.json",
    ),
}

_SINGLE = {"copa": 50, "rte": 50, "boolq": 20, "wic": 30, "cb": 50, "multirc": 15}
_XXLARGE = {"copa": 100, "rte": 50, "boolq": 24, "wic": 40, "cb": 100, "multirc": 12}
EPOCHS: dict[str, dict[str, int]] = {
    "EPOCH_SINGLE": {**_SINGLE, "wsc_generative": 50, "wsc": 50, "record": 5},
    "XXLARGE_EPOCH": {**_XXLARGE, "wsc_generative": 100, "wsc": 100, "record": 3},
    "EPOCH_0": dict.fromkeys([*_SINGLE, "wsc_generative", "wsc", "record"], 0),
}
EPOCHS["EPOCH_SINGLE_"] = EPOCHS["EPOCH_SINGLE"]

_COMMON = [
    "--finetune",
    "--block-lm",
    "--overwrite",
    "--save-epoch=100000",
    "--save-interval=10000",
]
_NLU = [
    *(*_COMMON, "--cloze-eval", "--checkpoint-activations", "--eval-batch-size=16"),
    *("--lr-decay-style=linear", "--warmup=0.1", "--weight-decay=1.0e-1", "--batch-size=16"),
    "--lr=1e-5",
]
_SPAN = [*_NLU, "--log-interval=50"]
_WSC = ["--loss-func=mix", "--wsc-negative", "--length-penalty=1", "--pattern-id=2"]
_LM = [*_COMMON, "--checkpoint-activations", "--eval-batch-size=16", "--seq-length=512"]
_NLG = [
    *(*_COMMON, "--checkpoint-activations", "--lr-decay-style=linear", "--warmup=0.06"),
    *("--weight-decay=1.0e-1", "--label-smoothing=0.1", "--log-interval=50"),
    "--no-repeat-ngram-size=3",
]


def _nlg(source: int, target: int, least: int, penalty: str, beams: int) -> list[str]:
    lengths = [f"--src-seq-length={source}", f"--tgt-seq-length={target}"]
    search = [f"--min-tgt-length={least}", f"--length-penalty={penalty}", f"--num-beams={beams}"]
    return [*_NLG, *lengths, *search, *(["--select-topk"] if beams > 1 else [])]


def _numbers(epochs: int, batch: int, lr: str, evaluation: int) -> list[str]:
    return [
        *(f"--epochs={epochs}", f"--batch-size={batch}", f"--lr={lr}"),
        f"--eval-batch-size={evaluation}",
    ]


_SG, _NLG_DATA = "english_data/superglue", "english_data/NLG"

# by its name there: script that it belongs to, task, folder or file of data below DATA, options
TASKS: dict[str, tuple[str, str, str, list[str]]] = {
    "copa": (
        "finetune_superglue",
        "COPA",
        f"{_SG}/COPA",
        [*_NLU, "--log-interval=20", "--seq-length=256", "--pattern-id=0"],
    ),
    **{
        name.lower(): (
            "finetune_superglue",
            name,
            f"{_SG}/{name}",
            [*_SPAN, f"--seq-length={length}", f"--pattern-id={pattern}"],
        )
        for name, length, pattern in (
            *(("RTE", 256, 0), ("BoolQ", 256, 4), ("WiC", 256, 1), ("CB", 256, 3)),
            *(("MultiRC", 512, 0), ("ReCoRD", 512, 0)),
        )
    },
    "wsc": (
        "finetune_superglue",
        "WSC",
        f"{_SG}/WSC-negative",
        [*_SPAN, "--seq-length=128", *_WSC],
    ),
    "wsc_generative": ("finetune_superglue", "WSC", f"{_SG}/WSC", [*_SPAN, "--seq-length=128"]),
    "zero_lambada": ("evaluate_lm", "lambda", f"{_NLG_DATA}/lambada_test.jsonl", _LM),
    "zero_lambada_uni": (
        "evaluate_lm",
        "lambda",
        f"{_NLG_DATA}/lambada_test.jsonl",
        [*_LM, "--unidirectional"],
    ),
    "zero_lm": (
        "evaluate_lm",
        "language_model",
        f"{_NLG_DATA}/bert-large-test.txt",
        [*_LM, "--overlapping-eval=256"],
    ),
    "zero_lm_uni": (
        "evaluate_lm",
        "language_model",
        f"{_NLG_DATA}/bert-large-test.txt",
        [*_LM, "--overlapping-eval=256", "--unidirectional"],
    ),
    "zero_wikitext": (
        "evaluate_lm",
        "wikitext",
        f"{_NLG_DATA}/wikitext-103/wiki.test.tokens",
        [*_LM, "--overlapping-eval=256"],
    ),
    "seq_blank": (
        "finetune_blank",
        "blank",
        f"{_NLG_DATA}/blank_yahoo",
        [*_nlg(256, 200, 0, "1", 1), *_numbers(5, 16, "1e-5", 8)],
    ),
    "seq_cnndm_org": (
        "finetune_seq2seq",
        "cnn_dm_original",
        f"{_NLG_DATA}/cnn_dm_original",
        [*_nlg(608, 160, 55, "0.7", 5), *_numbers(10, 8, "1e-5", 1), "--eval-epoch=2"],
    ),
    "seq_cnndm": (
        "finetune_seq2seq",
        "cnn_dm_original",
        f"{_NLG_DATA}/cnn_dm",
        [*_nlg(608, 160, 55, "0.7", 5), *_numbers(15, 8, "3e-5", 4)],
    ),
    "seq_xsum": (
        "finetune_seq2seq",
        "xsum",
        f"{_NLG_DATA}/bbc-summary-data",
        [*_nlg(608, 60, 10, "1.", 6), *_numbers(6, 8, "1e-5", 1), "--eval-epoch=2"],
    ),
    "seq_gigaword": (
        "finetune_seq2seq",
        "gigaword",
        f"{_NLG_DATA}/gigaword/org_data",
        [*_nlg(192, 32, 0, "0.6", 5), *_numbers(10, 16, "3e-5", 4)],
    ),
}

# teachers that the original's task_t_load.json describes: folders of pre-trained models that it
# was fine-tuned from, sizes (layers, hidden, heads, positions)
TEACHERS: dict[str, list[tuple[str, int, int, int, int]]] = {
    "base": [("blocklm-base-blank", 12, 768, 12, 512)],
    "large": [("blocklm-large-blank", 24, 1024, 16, 512)],
    "large_ibglm": [("blocklm-large-blank-ibglm", 24, 512, 4, 512)],
    "10b": [("blocklm-xxlarge", 48, 4096, 64, 1024)],
    "2b": [("blocklm-2b-512", 36, 2048, 32, 1024)],
}
TEACHERS["base_large"] = [*TEACHERS["base"], *TEACHERS["large"]]
