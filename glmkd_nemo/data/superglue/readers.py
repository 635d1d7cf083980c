"""Rows of the official files -> examples, one reader per task.

The readers keep what the reference makes of the rows, oddities included, since published numbers
rest on it:

- typographic quotes and en dashes become straight ones everywhere but in COPA's cloze questions;
- COPA's training set has every question twice, the second time with its choices exchanged;
- ReCoRD: training asks once per right answer, against at most ``max_choices - 1`` other entities,
  shuffled by one generator (seed 42) that runs through the file; evaluation asks once, with all
  entities, and gives every example label 1, for the right ones are in ``meta["answers"]``. Examples
  are sorted by their number of choices. (The reference takes the right answers of a question from
  a set, in an order that changes from process to process; here they keep the order of the file.)
- WSC: indices of words that are off by one are corrected, a pronoun is cut off what follows it, and
  of the training set only the true rows remain for cloze questions. Training examples with more
  than ``max_choices - 1`` wrong candidates become several, the last one filled up from the first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkd_nemo.data.superglue.config import LABELS, kind_of_split, task_name
from glmkd_nemo.data.superglue.example import Example
from glmkd_nemo.data.superglue.record import read_record
from glmkd_nemo.data.superglue.rows import Reading, Row, read_rows
from glmkd_nemo.data.superglue.wsc import read_wsc


def read_examples(
    task: str,
    path: str | Path,
    split: str,
    for_train: bool = False,
    cloze: bool = True,
    max_choices: int = 10,
    few_shot: int | None = None,
    few_shot_seed: int = 42,
    answer_order: Mapping[int, Sequence[str]] | None = None,
) -> list[Example]:
    """Examples of a file, in the order that the reference gives them.

    Args:
        task: one of ``TASKS``.
        path: a JSON lines file in the official form (see ``file_of``).
        split: ``train``, ``dev``, ``test``, ``unlabeled`` or a name that says which (dev32).
        for_train, cloze, max_choices, answer_order: see :class:`Reading`.
        few_shot: use so many rows, drawn with `few_shot_seed` and in the order of the file.

    Raises:
        FileNotFoundError: the file is missing.
        BadRow: a row is malformed: names file and line.
        ValueError: an unknown task, fewer rows than `few_shot`, or no example in any of them.
    """
    task = task_name(task)
    rows = read_rows(path)
    if few_shot is not None:
        if few_shot > len(rows):
            raise ValueError(f"task.few_shot={few_shot}: {path} has only {len(rows)} rows")
        drawn = random.Random(few_shot_seed).sample(range(len(rows)), few_shot)
        rows = [rows[i] for i in sorted(drawn)]
    reading = Reading(kind_of_split(split), for_train, cloze, max_choices, answer_order)
    examples = _READERS[task](rows, reading)
    if not examples:
        raise ValueError(f"{path}: no row gives an example of {task}: use another file")
    return examples


def _entailment(task: str) -> Callable[[list[Row], Reading], list[Example]]:
    def read(rows: list[Row], reading: Reading) -> list[Example]:
        return [_pair(task, row, reading, "premise", "hypothesis") for row in rows]

    return read


def _pair(
    task: str, row: Row, reading: Reading, a: str, b: str, meta: dict[str, Any] | None = None
) -> Example:
    """Two texts and a label."""
    idx = row.number("idx")
    return Example(
        guid=f"{reading.kind}-{idx}",
        text_a=row.plain(a),
        text_b=row.plain(b),
        label=row.label(LABELS[task], reading.labelled),
        idx=idx,
        meta=meta or {},
        where=row.where,
    )


def _boolq(rows: list[Row], reading: Reading) -> list[Example]:
    return [_pair("boolq", row, reading, "passage", "question") for row in rows]


def _wic(rows: list[Row], reading: Reading) -> list[Example]:
    return [
        _pair("wic", row, reading, "sentence1", "sentence2", {"word": row.text("word")})
        for row in rows
    ]


def _copa(rows: list[Row], reading: Reading) -> list[Example]:
    examples = [_copa_question(row, reading) for row in rows]
    if reading.kind in ("train", "unlabeled"):
        examples += [_mirrored(example) for example in examples]
    return examples


def _copa_question(row: Row, reading: Reading) -> Example:
    idx = row.number("idx")
    meta = {key: row.text(key) for key in ("choice1", "choice2", "question")}
    if meta["question"] not in ("cause", "effect"):
        raise row.bad(f"question is {meta['question']!r}; it must be cause or effect")
    label = row.label(LABELS["copa"], reading.labelled)
    guid = f"{reading.kind}-{idx}"
    return Example(guid, row.text("premise"), "", label, idx, meta=meta, where=row.where)


def _mirrored(example: Example) -> Example:
    meta = {
        "choice1": example.meta["choice2"],
        "choice2": example.meta["choice1"],
        "question": example.meta["question"],
    }
    label = "1" if example.label == "0" else "0"
    return Example(f"{example.guid}m", example.text_a, label=label, meta=meta, where=example.where)


def _multirc(rows: list[Row], reading: Reading) -> list[Example]:
    return [example for row in rows for example in _multirc_passage(row, reading)]


def _multirc_passage(row: Row, reading: Reading) -> list[Example]:
    examples = []
    passage_idx, passage = row.number("idx"), row.inner("passage")
    text = passage.plain("text")
    for question in passage.list_of("questions"):
        asked, question_idx = question.plain("question"), question.number("idx")
        for answer in question.list_of("answers"):
            idx = [passage_idx, question_idx, answer.number("idx")]
            meta = {
                "passage_idx": idx[0],
                "question_idx": idx[1],
                "answer_idx": idx[2],
                "answer": answer.plain("text"),
            }
            guid = f"{reading.kind}-p{idx[0]}-q{idx[1]}-a{idx[2]}"
            label = answer.label(LABELS["multirc"], reading.labelled)
            examples.append(Example(guid, text, asked, label, idx, meta=meta, where=row.where))
    return examples


_READERS: Mapping[str, Callable[[list[Row], Reading], list[Example]]] = {
    "record": read_record,
    "copa": _copa,
    "wsc": read_wsc,
    "wsc_generative": read_wsc,
    "rte": _entailment("rte"),
    "boolq": _boolq,
    "wic": _wic,
    "cb": _entailment("cb"),
    "multirc": _multirc,
}
