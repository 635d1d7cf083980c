"""Replays recorded features of SuperGLUE: ids, positions, masks and targets must be equal.

A feature file says which rows of ``../superglue_raw/TASK/SPLIT.jsonl`` it was made of, with which
options, and has the arrays that the reference made of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glmkd_nemo.data.superglue import (
    LABELS,
    Example,
    Feature,
    SuperGLUEConfig,
    build_feature,
    file_of,
    read_examples,
    task_name,
)
from glmkd_nemo.data.tokenizer import GLMTokenizer, build_tokenizer
from glmkd_nemo.replay import flags

VOCABULARY = "bert-base-uncased-vocab.txt"
# names of the sequences that a language model is trained on (WSC, generative)
_PLAIN = {"position_id": "position", "attention_mask": "mask", "loss_mask": "logit_mask"}


def is_feature_file(path: str | Path) -> bool:
    """Whether a path is a file, where recorded cases are folders."""
    return Path(path).is_file()


def replay_features(paths: list[str], vocabulary: str | None = None) -> int:
    """Compares feature files, one line each, and sums up.

    Args:
        paths: of the files.
        vocabulary: vocab.txt that they were made with; ``None``: ``bert-base-uncased-vocab.txt``,
            looked for above the first file and above the working directory, in ``data`` too.

    Returns:
        How many files are not equal.
    """
    tokenizer: GLMTokenizer | None = None
    failed = 0
    for path in map(Path, paths):
        try:
            tokenizer = tokenizer or _tokenizer(path, vocabulary)
            examples, problems = compare(path, tokenizer)
        except (ValueError, OSError, KeyError) as error:
            examples, problems = 0, [f"{type(error).__name__}: {error}"]
        failed += bool(problems)
        verdict = f"FAILED {problems[0]}" if problems else "equal"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        print(f"{path.name:58s}{examples:5d} examples  {verdict}{more}", flush=True)
    print(f"{len(paths) - failed} feature files equal, {failed} not", flush=True)
    return failed


def _tokenizer(path: Path, vocabulary: str | None) -> GLMTokenizer:
    if vocabulary is None:
        here = Path.cwd()
        around = [*path.resolve().parents, here, *here.parents]
        places = [up / folder for up in around for folder in (".", "data", "shared/data")]
        file = next((p / VOCABULARY for p in places if (p / VOCABULARY).is_file()), None)
        if file is None:
            raise ValueError(f"no {VOCABULARY} near {path}: give it with --vocab")
        vocabulary = str(file)
    return build_tokenizer({"type": "bert", "path": vocabulary})


def compare(path: Path, tokenizer: GLMTokenizer) -> tuple[int, list[str]]:
    """How many examples a feature file has, and what differs from what we make of its rows.

    Raises:
        ValueError: no feature file, or rows or options that cannot be used.
        OSError: the file or its rows are missing.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or not record.get("features"):
        raise ValueError(f"{path} has no features; give files of data/superglue")
    cfg = config_of(record)
    examples = _examples(record, cfg, path)
    features = [build_feature(example, cfg, tokenizer) for example in examples]
    problems = []
    if len(features) != len(record["features"]):
        problems.append(f"{len(features)} examples, recorded {len(record['features'])}")
    problems += [
        d
        for ours, its in zip(features, record["features"], strict=False)
        for d in _differences(ours, its)
    ]
    truncated = sum(feature.truncated for feature in features)
    if truncated != record["num_truncated"]:
        problems.append(f"{truncated} truncated, recorded {record['num_truncated']}")
    if list(LABELS[cfg.task]) != [str(label) for label in record["labels"]]:
        problems.append(f"labels {LABELS[cfg.task]}, recorded {record['labels']}")
    return len(features), problems


def config_of(record: Mapping[str, Any]) -> SuperGLUEConfig:
    """Our configuration of a feature file; its form is read off the arrays that it has."""
    options = flags.parse(record["extra_args"])
    task = task_name(record["task"])
    first = record["features"][0]
    if task == "wsc" and "attention_mask" in first:
        task = "wsc_generative"
    fast, cloze = "dec_text" in first, bool(record["cloze_eval"])
    several = fast or np.ndim(first["text"]) == 2
    return SuperGLUEConfig(
        task=task,
        seq_length=record["seq_length"],
        pattern_id=record["pattern_id"],
        cloze=cloze,
        multi_token=True if cloze and several else None,
        fast_decode=fast,
        block_position_encoding="no-block-position" not in options,
    )


def _examples(record: Mapping[str, Any], cfg: SuperGLUEConfig, path: Path) -> list[Example]:
    split, few = record["split"], "few-superglue" in flags.parse(record["extra_args"])
    rows = path.resolve().parent.parent / "superglue_raw" / record["task"]
    name = {"dev": "dev32", "test": "val"}.get(split, split) if few else split
    if few and cfg.task == "record" and split == "dev":
        name = "val"
    return read_examples(
        cfg.task,
        file_of(rows, name),
        split,
        for_train=record["for_train"],
        cloze=cfg.cloze,
        answer_order=_answer_order(record) if cfg.task == "record" else None,
    )


def _answer_order(record: Mapping[str, Any]) -> dict[int, list[str]]:
    """Right answers of ReCoRD's questions as recorded.

    The reference takes them from a set, whose order is another in each of its processes.
    """
    order: dict[int, list[str]] = {}
    for feature in record["features"]:
        meta = feature.get("_example", {}).get("meta", {})
        if "answers" in meta:
            order.setdefault(meta["question_idx"], []).extend(meta["answers"])
    return order


def _differences(ours: Feature, recorded: Mapping[str, Any]) -> Iterator[str]:
    arrays = {name: value for name, value in vars(ours).items() if value is not None}
    arrays.pop("truncated")
    for name, value in recorded.items():
        if name.startswith("_") or (name == "prompt_pos" and not np.size(value)):
            continue
        mine = arrays.pop(_PLAIN.get(name, name), None)
        if mine is None:
            yield f"{ours.uid}: no {name}"
        elif np.shape(mine) != np.shape(value):
            yield f"{ours.uid}: {name} {list(np.shape(mine))}, recorded {list(np.shape(value))}"
        elif not np.array_equal(mine, value):
            yield f"{ours.uid}: {name} {_first_difference(mine, value)}"
    yield from (f"{ours.uid}: {name} is not recorded" for name in arrays)


def _first_difference(mine: Any, recorded: Any) -> str:
    a, b = np.asarray(mine), np.asarray(recorded)
    if not a.ndim:
        return f"is {a}, recorded {b}"
    place = tuple(int(i) for i in np.argwhere(a != b)[0])
    return f"at {list(place)} is {a[place]}, recorded {b[place]}"
