"""What model a new student is: sizes, tokenizer, vocabulary map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glmkd_nemo.translate.command import Plan, names, section
from glmkd_nemo.translate.given import Given

TOKENIZERS = {
    "BertWordPieceTokenizer": "bert",
    "GPT2BPETokenizer": "gpt2",
    "ChineseSPTokenizer": "chinese",
}
_FILES = {
    "bert": "vocab.txt of",
    "gpt2": "vocab.json and merges.txt of",
    "chinese": "the vocabulary of the Chinese GLM,",
}
_PATHS = {
    "bert": "bert-large-uncased",
    "gpt2": "gpt2",
    "chinese": "chinese_sentencepiece/cog-pretrain.model",
}
_GROUP = "override /tokenizer@_global_.tokenizer"
# option, by key here
_SIZES = {
    "num_layers": "num-layers",
    "hidden_size": "hidden-size",
    "num_attention_heads": "num-attention-heads",
    "max_position_embeddings": "max-position-embeddings",
    "make_vocab_size_divisible_by": "make-vocab-size-divisible-by",
}
_DEFAULTS = {"share_layers": False, "bottleneck_ffns": 1, "make_vocab_size_divisible_by": 128}


def sizes_of(given: Given) -> dict[str, Any]:
    """Keys of the section ``model`` that say how large a student is."""
    found: dict[str, Any] = {key: int(given.of(name)) for key, name in _SIZES.items()}
    bottleneck = "inverted_bottleneck_mode" in given
    found["bottleneck_size"] = int(given.of("ib_hidden_size")) if bottleneck else None
    found["bottleneck_ffns"] = int(given.of("ib_ffn_num")) if bottleneck else 1
    found["bottleneck_word_embedding"] = int(given.of("ib_word_emb")) or None
    found["embedding_size"] = int(given.of("compress_word_emb")) or None
    found["share_layers"] = "cross_layer_parameter_sharing" in given
    return found


def tokenizer_group(given: Given) -> str:
    """The choice of group ``tokenizer``.

    Raises:
        ValueError: a tokenizer that is not built here.
    """
    kind = str(given.of("tokenizer-type"))
    if kind not in TOKENIZERS:
        known = ", ".join(TOKENIZERS)
        raise ValueError(f"--tokenizer-type={kind}: no equivalent here; there are {known}")
    return TOKENIZERS[kind]


def tokenizer_of(given: Given) -> dict[str, Any]:
    """Keys of the section ``tokenizer``; its path is a name that the original downloads from.

    Raises:
        ValueError: a tokenizer that is not built here.
    """
    group, named = tokenizer_group(given), given.get("tokenizer-model-type")
    path = _PATHS[group] if named is None or group == "chinese" else str(named)
    noise = [float(given.of(name)) for name in ("block-mask-prob", "context-mask-ratio")]
    sentinels = int(given.of("max-position-embeddings")) if "sentinel-token" in given else 0
    return {
        "type": {"chinese": "sentencepiece"}.get(group, group),
        "path": path,
        "lower_case": "-cased" not in path,
        "task_mask": "task-mask" in given,
        "block_mask": any(noise),
        "fix_command_token": "fix-command-token" in given,
        "sentinels": sentinels,
    }


def new_model(given: Given, plan: Plan) -> None:
    """Group and sizes of a new model, with tokenizer and vocabulary map."""
    sizes, tokenizer = sizes_of(given), tokenizer_group(given)
    plan.groups["model"] = _nearest(sizes, tokenizer)
    if _tokenizer_of(section(plan.groups["model"], "model")) != tokenizer:
        plan.groups["tokenizer"] = tokenizer
    for key, value in sizes.items():
        plan.set(f"model.{key}", value, _DEFAULTS.get(key))
    _tokenizer(given, plan, tokenizer)
    _vocab_map(given, plan)


def _nearest(sizes: dict[str, Any], tokenizer: str) -> str:
    def differing(name: str) -> tuple[int, str]:
        there = section(name, "model")
        other = sum(there.get(key, _DEFAULTS.get(key)) != value for key, value in sizes.items())
        return other + (_tokenizer_of(there) != tokenizer), name

    plain = [name for name in names("model") if "vocab_map" not in section(name, "model")]
    usable = [name for name in plain if not isinstance(section(name, "model")["defaults"][0], str)]
    return min(differing(name) for name in usable)[1]


def _tokenizer_of(model: Mapping[str, Any]) -> str:
    chosen = [entry[_GROUP] for entry in model.get("defaults", []) if _GROUP in entry]
    return str(chosen[0]) if chosen else "bert"


def _tokenizer(given: Given, plan: Plan, group: str) -> None:
    section = tokenizer_of(given)
    for key, value in section.items():
        if key not in ("type", "lower_case") or (key, group) == ("lower_case", "bert"):
            plan.set(f"model.tokenizer.{key}", value)
    path = section["path"]
    if not Path(path).exists():
        plan.note(f"model.tokenizer.path={path}: put {_FILES[group]} {path} there, or say where")


def _vocab_map(given: Given, plan: Plan) -> None:
    size = float(given.of("map_vocab_size") or 0)
    if not size:
        return
    prefix = "model.vocab_map"
    plan.set(f"{prefix}.size", size if size < 1 else int(size))
    plan.set(f"{prefix}.unmap_output", "unmap_vocab_output" in given, False)
    if "student_build_map_vocab" not in given:
        return
    kind, named = given.of("tokenizer-type"), given.get("tokenizer-model-type")
    plan.set(f"{prefix}.table", f".pytorch_pretrained_bert/{kind}_{named}.txt")
    plan.note(
        f"{prefix}.table: the file of the original's vocab_sort.py, or scripts/sort_vocab.py's"
    )
    teacher = given.get("student_map_vocab_tn")
    if teacher is not None and int(teacher) >= 0:
        plan.set(f"{prefix}.replace", str(given.of("student_map_vocab_method")), "unk")
        plan.set(f"{prefix}.teacher", f"t{int(teacher)}")
