"""Predictions as the leaderboard of SuperGLUE takes them: one file per task, a row per question.

==============  ===================================================================================
BoolQ, WiC      ``{"idx": 0, "label": "true"}``, or ``"false"``
WSC             ``{"idx": 0, "label": "True"}``, or ``"False"``
CB, RTE         ``{"idx": 0, "label": "entailment"}``, or another of the task's labels
COPA            ``{"idx": 0, "label": 1}``: the second choice, or 0: the first
MultiRC         ``{"idx": 0, "passage": {"questions": [{"idx": 0, "answers": [{"idx": 0,
                "label": 1}]}]}}``, or 0: not a right answer
ReCoRD          ``{"idx": 0, "label": "Puerto Rico"}``: ``idx`` of the query, and an entity as the
                passage spells it
==============  ===================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmkd_nemo.data.superglue.config import LABELS, task_name
from glmkd_nemo.data.superglue.example import Example
from glmkd_nemo.data.superglue.rows import Row, read_rows, straight

FILES = {
    "record": "ReCoRD.jsonl",
    "copa": "COPA.jsonl",
    "wsc": "WSC.jsonl",
    "wsc_generative": "WSC.jsonl",
    "rte": "RTE.jsonl",
    "boolq": "BoolQ.jsonl",
    "wic": "WiC.jsonl",
    "cb": "CB.jsonl",
    "multirc": "MultiRC.jsonl",
}


def write_submission(
    task: str,
    examples: Sequence[Example],
    answers: Sequence[str],
    source: str | Path,
    folder: str | Path,
) -> Path:
    """Writes a task's file, in the order of the questions in ``source``.

    Args:
        task: in upper or lower case.
        examples: read from ``source``, in any order.
        answers: of each example: a label, or for ReCoRD the text of a candidate (see
            :func:`glmkd_nemo.metrics.superglue.answers_of`).
        source: the file of questions, as a rule the official test.jsonl.
        folder: is made if it is missing; a file of the task that is there is replaced.

    Returns:
        The file.

    Raises:
        BadRow: a row of ``source`` is malformed.
        ValueError: a question without an answer, with two, or with one it cannot have, and an
            answer to no question of ``source``. Nothing is written then.
    """
    task = task_name(task)
    given = _Given(task, examples, answers)
    lines = [line for row in read_rows(source) for line in _lines(task, row, given)]
    given.refuse_the_rest(source)
    target = Path(folder) / FILES[task]
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    part.replace(target)
    return target


class _Given:
    """The answers by the number of their question, each to be taken once."""

    def __init__(self, task: str, examples: Sequence[Example], answers: Sequence[str]) -> None:
        if len(examples) != len(answers):
            raise ValueError(f"{task}: {len(answers)} answers to {len(examples)} examples")
        self.task = task
        self.answers: dict[tuple[int, ...], str] = {}
        for example, answer in zip(examples, answers, strict=True):
            key = _key(task, example)
            if key in self.answers:
                raise ValueError(f"{task}: {example.guid} is not the only example of idx {key}")
            self.answers[key] = answer

    def take(self, row: Row, key: tuple[int, ...], allowed: Sequence[str]) -> str:
        """The answer to a question."""
        name = f"{self.task} {'-'.join(map(str, key))}"
        if key not in self.answers:
            raise row.bad(f"no answer to {name}; predict the whole file before writing it")
        answer = self.answers.pop(key)
        if answer not in allowed:
            raise row.bad(f"{answer!r} cannot answer {name}; it must be one of {list(allowed)}")
        return answer

    def refuse_the_rest(self, source: str | Path) -> None:
        """Nothing may be left over."""
        if self.answers:
            raise ValueError(
                f"{self.task}: {len(self.answers)} answers are to no question of {source} (idx "
                f"{next(iter(self.answers))} is the first); give the file that was predicted"
            )


def _key(task: str, example: Example) -> tuple[int, ...]:
    """Numbers of a question: MultiRC passage, question, answer; ReCoRD passage, query."""
    if task == "record":
        return example.meta["passage_idx"], example.meta["question_idx"]
    return tuple(example.idx) if task == "multirc" else (example.idx,)


def _lines(task: str, row: Row, given: _Given) -> list[dict[str, Any]]:
    """What a row of the test file becomes."""
    if task == "multirc":
        return [_passage(row, given)]
    if task == "record":
        return _queries(row, given)
    idx = row.number("idx")
    label = given.take(row, (idx,), LABELS[task])
    return [{"idx": idx, "label": int(label) if task == "copa" else label}]


def _passage(row: Row, given: _Given) -> dict[str, Any]:
    passage, questions = row.number("idx"), []
    for question in row.inner("passage").list_of("questions"):
        number, answers = question.number("idx"), []
        for answer in question.list_of("answers"):
            idx = answer.number("idx")
            label = given.take(row, (passage, number, idx), LABELS["multirc"])
            answers.append({"idx": idx, "label": int(label)})
        questions.append({"idx": number, "answers": answers})
    return {"idx": passage, "passage": {"questions": questions}}


def _queries(row: Row, given: _Given) -> list[dict[str, Any]]:
    passage = row.inner("passage")
    text, spelled = passage.text("text"), dict[str, str]()
    for place in passage.list_of("entities"):
        entity = text[place.number("start") : place.number("end") + 1]
        spelled.setdefault(straight(entity), entity)  # examples have straight quotes
    lines = []
    for query in row.list_of("qas"):
        key = row.number("idx"), query.number("idx")
        lines.append({"idx": key[1], "label": spelled[given.take(row, key, list(spelled))]})
    return lines
