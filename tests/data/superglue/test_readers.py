"""Files -> examples: the official forms, and every kind of bad row by its file and line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.data.superglue import BadRow, file_of, read_examples

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "fewglue"
FOLDERS = {
    "record": "ReCoRD",
    "copa": "COPA",
    "wsc": "WSC",
    "wsc_generative": "WSC",
    "rte": "RTE",
    "boolq": "BoolQ",
    "wic": "WiC",
    "cb": "CB",
    "multirc": "MultiRC",
}
PASSAGE = "Oslo and Bergen are in Norway."
ROWS: dict[str, dict[str, Any]] = {
    "rte": {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"},
    "cb": {"premise": "It rains.", "hypothesis": "It is wet.", "label": "neutral"},
    "boolq": {"passage": "It rains.", "question": "is it wet", "label": True},
    "wic": {"word": "bank", "sentence1": "A bank.", "sentence2": "The bank.", "label": False},
    "copa": {
        "premise": "It rained.",
        "choice1": "It got wet.",
        "choice2": "It shone.",
        "question": "effect",
        "label": 0,
    },
    "multirc": {
        "passage": {
            "text": PASSAGE,
            "questions": [
                {"question": "Where?", "idx": 3, "answers": [{"text": "No", "idx": 5, "label": 1}]}
            ],
        }
    },
    "record": {
        "passage": {
            "text": PASSAGE,
            "entities": [{"start": 0, "end": 3}, {"start": 9, "end": 14}, {"start": 23, "end": 28}],
        },
        "qas": [
            {
                "idx": 7,
                "query": "Both are in @placeholder",
                "answers": [{"start": 23, "end": 28, "text": "Norway"}],
            }
        ],
    },
    "wsc": {
        "text": "Anna thanked Ruth because she had helped.",
        "target": {
            "span1_text": "Ruth",
            "span1_index": 2,
            "span2_text": "she",
            "span2_index": 4,
        },
        "label": True,
        "candidates": [{"text": "Anna"}],
    },
}


def row(task: str, place: str = "", value: Any = None) -> dict[str, Any]:
    """A good row, or one with the value at a dotted place changed (``...``: removed)."""
    made = {"idx": 0, **copy.deepcopy(ROWS[task])}
    *path, last = place.split(".")
    inner: Any = made
    for key in path:
        inner = inner[int(key) if key.isdigit() else key]
    if place and value is ...:
        del inner[last]
    elif place:
        inner[last] = value
    return made


def write(path: Path, *rows: dict[str, Any] | str | bytes) -> Path:
    lines = [r if isinstance(r, bytes | str) else json.dumps(r) for r in rows]
    path.write_bytes(b"".join((r if isinstance(r, bytes) else r.encode()) + b"\n" for r in lines))
    return path


@pytest.mark.parametrize("task", ROWS)
def test_good_rows(tmp_path: Path, task: str):
    found = read_examples(task.upper(), write(tmp_path / "val.jsonl", row(task)), "dev")
    assert len(found) == 1
    assert found[0].guid.startswith("dev-")
    assert found[0].where == f"{tmp_path / 'val.jsonl'}:1"


BAD = [
    ("rte", "premise", ..., "premise is missing (found: idx, hypothesis, label)"),
    ("rte", "premise", None, "premise is missing"),
    ("rte", "hypothesis", " ", "hypothesis is empty"),
    ("rte", "hypothesis", 3, "hypothesis is 3; it must be a text"),
    ("rte", "idx", ..., "idx is missing"),
    ("rte", "idx", "one", 'idx is "one"; it must be a whole number'),
    ("rte", "idx", 1.5, "idx is 1.5; it must be a whole number"),
    ("rte", "idx", True, "idx is true; it must be a whole number"),
    ("rte", "idx", -1, "idx is -1; it must be 0 or more"),
    ("rte", "label", ..., "label is missing"),
    ("rte", "label", "neutral", 'label is "neutral"; it must be one of entailment, not_entailment'),
    ("cb", "label", 0, "label is 0; it must be one of entailment, contradiction, neutral"),
    ("boolq", "label", 1, "label is 1; it must be one of false, true"),
    ("wic", "label", "yes", 'label is "yes"; it must be one of false, true'),
    ("wic", "word", ..., "word is missing"),
    ("copa", "label", 2, "label is 2; it must be one of 0, 1"),
    ("copa", "label", True, "label is true; it must be one of 0, 1"),
    ("copa", "question", "why", "question is 'why'; it must be cause or effect"),
    ("multirc", "passage", [], "passage is []; it must be an object"),
    ("multirc", "passage.questions", {}, "passage.questions is {}; it must be a list"),
    ("multirc", "passage.questions.0", 1, "passage.questions[0] is 1; it must be an object"),
    (
        "multirc",
        "passage.questions.0.answers.0.label",
        ...,
        "passage.questions[0].answers[0].label is missing",
    ),
    ("record", "qas.0.answers.0.text", "Sweden", "'Sweden' is not in the passage"),
    ("record", "qas.0.answers", [], "qas[0].answers is empty"),
    ("record", "qas.0.query", "Where?", "qas[0].query must have @placeholder once, not 0 times"),
    ("record", "passage.entities.1.end", 99, "is outside the passage of 30 characters"),
    ("wsc", "target.span1_text", "Rita", "target.span1_text 'Rita' is not in the text"),
    ("wsc", "target.span2_text", "her", "target.span2_text 'her' is not word 4 of the text"),
    ("wsc", "target.span2_index", 40, "is not word 40 of the text"),
    ("wsc", "candidates", [{}], "candidates[0].text is missing (found: nothing)"),
]


@pytest.mark.parametrize(("task", "place", "value", "message"), BAD)
def test_bad_fields(tmp_path: Path, task: str, place: str, value: Any, message: str):
    good = row(task) | {"idx": 9}
    if isinstance(value, int) and place.endswith(".0"):
        bad = row(task)
        bad["passage"]["questions"][0] = value
    else:
        bad = row(task, place, value)
    file = write(tmp_path / "train.jsonl", good, bad)
    with pytest.raises(BadRow) as caught:
        read_examples(task, file, "train")
    assert str(caught.value).startswith(f"{file}:2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"idx": 1, "premise": "caf\xe9"}', "not UTF-8 (byte 0xe9 at column 27); save"),
        (b'{"idx": 1, "premise": "open}', 'look for a quote (") that is not closed'),
        (b'{"idx": 1, "premise": "a "b" c"}', 'look for a quote (") that is not closed'),
        (b'{"idx": 1, "premise": }', "not JSON: Expecting value at column 23"),
        (b'{"idx": 1, "idx": 2}', "key 'idx' is given twice; keep one"),
        (b'{"idx": 1, "a": {"b": 1, "b": 2}}', "key 'b' is given twice; keep one"),
        (b"[1, 2]", "[1, 2], not a JSON object"),
        (b"  ", "an empty line; remove it"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (json.dumps(row("rte")).encode(), "idx 0 is that of line 1 too"),
    ],
)
def test_bad_lines(tmp_path: Path, line: bytes, message: str):
    file = write(tmp_path / "train.jsonl", row("rte"), line)
    with pytest.raises(BadRow) as caught:
        read_examples("rte", file, "train")
    assert str(caught.value).startswith(f"{file}:2: ")
    assert message in str(caught.value)


def test_files_without_rows(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"dev32.jsonl is missing: check task.data_dir"):
        read_examples("rte", file_of(tmp_path, "dev32"), "dev32")
    for content in (b"", b"\n \n"):
        (tmp_path / "train.jsonl").write_bytes(content)
        with pytest.raises(BadRow, match=r"train.jsonl:1: the file has no rows"):
            read_examples("rte", tmp_path / "train.jsonl", "train")
    only_false = write(tmp_path / "train.jsonl", row("wsc", "label", False))
    with pytest.raises(ValueError, match="no row gives an example of wsc"):
        read_examples("wsc", only_false, "train")
    assert len(read_examples("wsc", only_false, "train", cloze=False)) == 1


def test_tests_need_no_labels(tmp_path: Path):
    for task, place in (("rte", "label"), ("multirc", "passage.questions.0.answers.0.label")):
        found = read_examples(task, write(tmp_path / "t.jsonl", row(task, place, ...)), "test")
        assert found[0].label is None
    file = write(tmp_path / "t.jsonl", row("record", "qas.0.answers", ...))
    assert read_examples("record", file, "test")[0].meta["answers"] == []


def test_copa_is_mirrored_in_training_only(tmp_path: Path):
    file = write(tmp_path / "train.jsonl", row("copa"))
    first, mirrored = read_examples("copa", file, "train")
    assert (first.label, mirrored.label, mirrored.guid) == ("0", "1", "train-0m")
    assert mirrored.meta["choice1"] == first.meta["choice2"]
    assert len(read_examples("copa", file, "dev")) == 1


def test_record_in_training_and_in_evaluation(tmp_path: Path):
    file = write(tmp_path / "train.jsonl", row("record"))
    (train,) = read_examples("record", file, "train")
    assert train.meta["candidates"] == ["Norway", "Bergen", "Oslo"]
    assert (train.label, train.idx, train.num_choices) == ("0", [0, 7, 0], 3)
    (dev,) = read_examples("record", file, "dev")
    assert dev.meta["candidates"] == ["Bergen", "Norway", "Oslo"]
    assert (dev.label, dev.idx, dev.meta["answers"]) == ("1", 7, ["Norway"])
    (two,) = read_examples("record", file, "train", max_choices=2)
    assert two.num_choices == 2


def test_wsc_corrects_indices_and_cuts_off_punctuation(tmp_path: Path):
    beside = row("wsc", "target.span2_index", 5)
    (found,) = read_examples("wsc", write(tmp_path / "a.jsonl", beside), "dev")
    assert found.meta["span2_index"] == 4
    attached = row("wsc", "text", "Anna saw Ruth and thanked her.")
    attached["target"] |= {"span2_text": "her", "span2_index": 5}
    (found,) = read_examples("wsc", write(tmp_path / "b.jsonl", attached), "dev")
    assert found.text_a == "Anna saw Ruth and thanked her ."


def test_many_wsc_candidates_make_several_training_examples(tmp_path: Path):
    many = row("wsc", "candidates", [{"text": f"c{i}"} for i in (0, 1, 2, 3, 4, 1)])
    file = write(tmp_path / "train.jsonl", many)
    parts = [e.meta["candidates"] for e in read_examples("wsc", file, "train", max_choices=4)]
    assert parts == [["c0", "c1", "c2"], ["c3", "c4", "c0"]]
    assert len(read_examples("wsc", file, "dev", max_choices=4)) == 1


def test_few_shot_draws_rows_once_and_for_all(tmp_path: Path):
    rows = [row("rte") | {"idx": i} for i in range(20)]
    file = write(tmp_path / "train.jsonl", *rows)
    drawn = [e.idx for e in read_examples("rte", file, "train", few_shot=5)]
    assert len(set(drawn)) == 5
    assert drawn == sorted(drawn)
    assert drawn == [e.idx for e in read_examples("rte", file, "train", few_shot=5)]
    others = read_examples("rte", file, "train", few_shot=5, few_shot_seed=1)
    assert drawn != [e.idx for e in others]
    with pytest.raises(ValueError, match="has only 20 rows"):
        read_examples("rte", file, "train", few_shot=21)


@pytest.mark.skipif(not SHARED.is_dir(), reason="real rows (../shared/data/fewglue) are not here")
@pytest.mark.parametrize("task", FOLDERS)
def test_real_rows_are_read(task: str):
    folder = SHARED / FOLDERS[task]
    for split in ("train", "dev32", "dev"):
        if split == "dev" and not file_of(folder, split).is_file():
            continue  # FewGLUE has no val.jsonl of ReCoRD
        found = read_examples(task, file_of(folder, split), split)
        assert len(found) >= 32
        assert all(example.label is not None for example in found)
