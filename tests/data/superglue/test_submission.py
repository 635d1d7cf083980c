"""Files of predictions: the official structure, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.data.superglue.config import LABELS
from glmkd_nemo.data.superglue.readers import read_examples
from glmkd_nemo.data.superglue.submission import FILES, write_submission

SENTENCES = {"premise": "It rains.", "hypothesis": "It is wet."}
WORDS = {"word": "bank", "sentence1": "A bank.", "sentence2": "The bank."}
SPANS = {"span1_text": "Ann", "span1_index": 0, "span2_text": "she", "span2_index": 2}
TEXT = "\u201cAnn\u2019s\u201d shop and Bob met in Rome."
ENTITIES = [{"start": 1, "end": 5}, {"start": 17, "end": 19}, {"start": 28, "end": 31}]


def answer(idx: int) -> dict[str, Any]:
    return {"idx": idx, "text": f"answer {idx}"}


# rows of a test file, what a model answers to them in order, and the rows to be handed in
ROWS: dict[str, list[dict[str, Any]]] = {
    "boolq": [{"idx": i, "passage": "Rome.", "question": "is it rome"} for i in range(2)],
    "cb": [{"idx": i, **SENTENCES} for i in range(3)],
    "rte": [{"idx": i, **SENTENCES} for i in range(2)],
    "wic": [{"idx": i, **WORDS} for i in range(2)],
    "wsc": [{"idx": i, "text": "Ann said she left.", "target": SPANS} for i in range(2)],
    "copa": [
        {"idx": i, "premise": "It rains.", "choice1": "A.", "choice2": "B.", "question": "cause"}
        for i in range(2)
    ],
    "multirc": [
        {
            "idx": 0,
            "passage": {
                "text": "Rome.",
                "questions": [
                    {"idx": 0, "question": "Where?", "answers": [answer(0), answer(1)]},
                    {"idx": 1, "question": "When?", "answers": [answer(2)]},
                ],
            },
        },
        {
            "idx": 1,
            "passage": {
                "text": "Paris.",
                "questions": [{"idx": 2, "question": "Where?", "answers": [answer(3)]}],
            },
        },
    ],
    "record": [
        {
            "idx": 4,
            "passage": {"text": TEXT, "entities": ENTITIES},
            "qas": [
                {"idx": 7, "query": "@placeholder is a city"},
                {"idx": 8, "query": "the shop is @placeholder"},
            ],
        },
        {
            "idx": 5,
            "passage": {"text": TEXT, "entities": ENTITIES[:2]},
            "qas": [{"idx": 9, "query": "@placeholder is a man"}],
        },
    ],
}
ROWS["wsc_generative"] = ROWS["wsc"]
ANSWERS = {
    "boolq": ["true", "false"],
    "cb": ["neutral", "entailment", "contradiction"],
    "rte": ["not_entailment", "entailment"],
    "wic": ["false", "true"],
    "wsc": ["False", "True"],
    "wsc_generative": ["False", "True"],
    "copa": ["1", "0"],
    "multirc": ["1", "0", "0", "1"],
    "record": ["Rome", "Ann's", "Bob"],
}


def nested(idx: int, questions: dict[int, list[tuple[int, int]]]) -> dict[str, Any]:
    """An official row of MultiRC."""
    listed = [
        {"idx": q, "answers": [{"idx": a, "label": label} for a, label in answers]}
        for q, answers in questions.items()
    ]
    return {"idx": idx, "passage": {"questions": listed}}


HANDED_IN: dict[str, list[dict[str, Any]]] = {
    **{
        task: [{"idx": i, "label": label} for i, label in enumerate(ANSWERS[task])]
        for task in ("boolq", "cb", "rte", "wic", "wsc", "wsc_generative")
    },
    "copa": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}],
    "multirc": [nested(0, {0: [(0, 1), (1, 0)], 1: [(2, 0)]}), nested(1, {2: [(3, 1)]})],
    "record": [
        {"idx": 7, "label": "Rome"},
        {"idx": 8, "label": "Ann\u2019s"},
        {"idx": 9, "label": "Bob"},
    ],
}


def source_of(task: str, folder: Path) -> Path:
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]), encoding="utf-8")
    return file


def by_question(task: str, file: Path) -> tuple[list[Any], list[str]]:
    """Examples of the file in its order (readers may sort them), with their answers."""
    examples = read_examples(task, file, "test")
    if task == "record":
        examples = sorted(examples, key=lambda example: example.meta["question_idx"])
    return examples, ANSWERS[task]


@pytest.mark.parametrize("task", LABELS)
def test_official_rows(task: str, tmp_path: Path):
    source = source_of(task, tmp_path)
    examples, answers = by_question(task, source)
    written = write_submission(task, examples[::-1], answers[::-1], source, tmp_path / "new" / "x")
    assert written == tmp_path / "new" / "x" / FILES[task]
    lines = written.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == HANDED_IN[task]
    assert [file.name for file in written.parent.iterdir()] == [FILES[task]]


def test_labels_are_texts_or_numbers_as_the_server_compares_them(tmp_path: Path):
    source = source_of("boolq", tmp_path)
    written = write_submission("BoolQ", *by_question("boolq", source), source, tmp_path)
    assert written.read_text().splitlines()[0] == '{"idx": 0, "label": "true"}'


@pytest.mark.parametrize("task", LABELS)
def test_an_incomplete_set_is_refused(task: str, tmp_path: Path):
    source = source_of(task, tmp_path)
    examples, answers = by_question(task, source)
    with pytest.raises(ValueError, match=r"test\.jsonl:\d: no answer to .* the whole file"):
        write_submission(task, examples[:-1], answers[:-1], source, tmp_path)
    with pytest.raises(ValueError, match="'' cannot answer"):
        write_submission(task, examples, [*answers[:-1], ""], source, tmp_path)
    with pytest.raises(ValueError, match=r"answers to \d examples"):
        write_submission(task, examples, answers[:-1], source, tmp_path)
    with pytest.raises(ValueError, match="is not the only example of idx"):
        write_submission(task, [*examples, examples[0]], [*answers, answers[0]], source, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["test.jsonl"]


def test_answers_to_another_file_are_refused(tmp_path: Path):
    source = source_of("cb", tmp_path)
    examples, answers = by_question("cb", source)
    source.write_text(json.dumps(ROWS["cb"][0]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"2 answers are to no question of .*test\.jsonl"):
        write_submission("cb", examples, answers, source, tmp_path)


def test_an_entity_of_another_passage_is_refused(tmp_path: Path):
    source = source_of("record", tmp_path)
    examples, _ = by_question("record", source)
    with pytest.raises(ValueError, match=r"test\.jsonl:2: 'Rome' cannot answer record 5-9"):
        write_submission("record", examples, ["Rome", "Bob", "Rome"], source, tmp_path)
