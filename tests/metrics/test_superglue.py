"""SuperGLUE's metrics against numbers worked out by hand and against published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glmkd_nemo.data.superglue.config import LABELS, file_of
from glmkd_nemo.data.superglue.example import Example
from glmkd_nemo.data.superglue.readers import read_examples
from glmkd_nemo.metrics.superglue import (
    NO_ANSWER,
    answers_of,
    evaluate,
    main_metric,
    majority,
    metrics_of,
)

FEWGLUE = Path(__file__).resolve().parents[3] / "shared" / "data" / "fewglue"
NAN = float("nan")


def arrays(*rows: list[float]) -> list[np.ndarray]:
    return [np.array(row) for row in rows]


def labelled(labels: list[str | None]) -> list[Example]:
    return [Example(f"dev-{i}", "a", label=label) for i, label in enumerate(labels)]


def wsc(label: str, *candidates: str) -> Example:
    meta = {"candidates": list(candidates)} if candidates else {}
    return Example("dev-0", "a", label=label, meta={"span1_text": "Ann", **meta})


def multirc(questions: dict[tuple[int, int], str]) -> list[Example]:
    """Questions ``(passage, question)`` with the labels of their answers."""
    return [
        Example(f"dev-p{p}-q{q}-a{a}", "a", label=label, meta={"passage_idx": p, "question_idx": q})
        for (p, q), labels in questions.items()
        for a, label in enumerate(labels)
    ]


def record(candidates: list[str], answers: list[str], passage: str = "") -> Example:
    meta = {"candidates": candidates, "answers": answers}
    return Example("dev-p0-q0", passage, label="1", meta=meta)


@pytest.mark.parametrize("task", ["boolq", "rte", "wic", "copa"])
def test_accuracy(task: str):
    one, other = LABELS[task]
    examples = labelled([one, other, other, one])
    scores = arrays([2, 1], [0, -1], [-3, -2], [5, 5])  # the last is a tie: the first label
    found = evaluate(task.upper(), examples, LABELS[task], scores)
    assert found == {"accuracy": 0.75}
    assert main_metric(task.upper()) == "accuracy"


def test_cb():
    e, c, n = LABELS["cb"]
    answers = [e, e, c, c, e, n]
    found = metrics_of("cb", labelled([e, e, e, c, c, n]), answers)
    # F1: e 2 right of 3 answered and 3 there, c 1 of 2 and 2, n 1 of 1 and 1
    assert found["f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found[main_metric("CB")] == pytest.approx((found["f1"] + 4 / 6) / 2)


def test_the_published_majority_of_cb():
    """Table 3 of arXiv 1905.00537: F1 21.7 with accuracy 48.4."""
    e, c, n = LABELS["cb"]
    test = labelled([c] * 121 + [e] * 110 + [n] * 19)
    found = majority("cb", test, test, LABELS["cb"])
    assert round(100 * found["accuracy"], 1) == 48.4
    assert round(100 * found["f1"], 1) == 21.7


def test_multirc():
    examples = multirc({(0, 0): "110", (0, 1): "01", (1, 0): "00"})
    answers = ["1", "0", "0", "0", "1", "0", "1"]
    found = metrics_of("multirc", examples, answers)
    # of 3 right answers 2 are found, and 3 are said to be right; question 0 of passage 1 is not
    # question 0 of passage 0, so that only (0, 1) is met exactly
    assert found["f1a"] == pytest.approx(2 / 3)
    assert found["em"] == pytest.approx(1 / 3)
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found[main_metric("multirc")] == pytest.approx(0.5)


def test_answers_of_a_question_need_not_stand_together():
    examples = multirc({(0, 0): "10", (0, 1): "1"})
    split = [examples[0], examples[2], examples[1]]
    assert metrics_of("multirc", split, ["1", "1", "1"])["em"] == 0.5


def test_the_published_majority_of_multirc():
    """F1a 61.1 is that of saying that all answers are right, 44 of 100 of which are."""
    examples = multirc({(0, q): "1" * 11 + "0" * 14 for q in range(4)})
    everything = metrics_of("multirc", examples, ["1"] * 100)
    assert round(100 * everything["f1a"], 1) == 61.1
    found = majority("multirc", examples, examples, LABELS["multirc"])
    assert found == {"accuracy": 0.56, "f1a": 0.0, "em": 0.0, "average": 0.0}


def test_record():
    examples = [
        record(["Puerto Rico", "the U.S."], ["US", "United States"]),
        record(["Ann Smith", "Bob"], ["Mrs. Ann Smith", "Bob Ann"]),
        record(["Rome", "Oslo"], ["Rome"]),
    ]
    scores = arrays([-2, -1], [-1, -2], [-1, -0.5])
    found = evaluate("record", examples, LABELS["record"], scores)
    # "the U.S." is "us"; of "ann smith", "mrs ann smith" has 2 of 3 words: F1 4/5; Oslo is wrong
    assert found["em"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx((1 + 4 / 5 + 0) / 3)
    assert found[main_metric("ReCoRD")] == pytest.approx((found["em"] + found["f1"]) / 2)


@pytest.mark.parametrize(
    ("answer", "gold", "em", "f1"),
    [
        ("The  Beatles!", "beatles", 1, 1),
        ("a Theory", "theory", 1, 1),  # articles are words, not letters
        ("rock-and-roll", "rock and roll", 0, 0),  # punctuation goes without a space
        ("to be or to be", "to be", 0, 4 / 7),  # words are counted
    ],
)
def test_record_normalises_as_squad(answer: str, gold: str, em: float, f1: float):
    found = metrics_of("record", [record([answer], ["x", gold])], [answer])
    assert found["em"] == em
    assert found["f1"] == pytest.approx(f1)


def test_record_looks_at_an_examples_own_candidates():
    examples = [record(["Rome", "Oslo"], ["Rome"]), record(["Bob"], ["Bob"])]
    padded = arrays([-1, -2, 0], [-9, 0, 0])
    assert answers_of("record", examples, LABELS["record"], padded) == ["Rome", "Bob"]
    cut = arrays([-1], [-9])
    assert answers_of("record", examples, LABELS["record"], cut) == ["Rome", "Bob"]


def test_wsc_as_a_cloze_question():
    """The first score is the span's: the pronoun means it if no other candidate is better."""
    examples = [wsc("True", "Bob"), wsc("False", "Bob"), wsc("True", "Bob", "Cem"), wsc("False")]
    scores = arrays([-1, -2], [-2, -1], [-2, -3, -1], [-5, 0])
    answers = answers_of("wsc", examples, LABELS["wsc"], scores)
    assert answers == ["True", "False", "False", "True"]  # the last has no other candidate
    assert metrics_of("wsc", examples, answers) == {"accuracy": 0.5}


def test_wsc_classified():
    examples = [wsc("True", "Bob"), wsc("False", "Bob")]
    found = evaluate("wsc", examples, LABELS["wsc"], arrays([-1, 2], [2, -1]), cloze=False)
    assert found == {"accuracy": 1.0}


def test_wsc_generated():
    """[sum of -log p, tokens, tokens right, all right]: the span is written, or it is not."""
    examples = [wsc("True"), wsc("True"), wsc("False"), wsc("False")]
    scores = arrays([0.2, 3, 3, 1], [9, 3, 2, 0], [9, 1, 0, 0], [0.1, 2, 2, 1])
    answers = answers_of("wsc_generative", examples, LABELS["wsc_generative"], scores)
    assert answers == ["True", "False", "False", "True"]
    assert metrics_of("wsc_generative", examples, answers) == {"accuracy": 0.5}


def test_no_answer_is_a_wrong_one():
    e, c, _ = LABELS["cb"]
    scores = arrays([NAN, 1, 2], [], [0, 1, 0])
    examples = labelled([e, c, c])
    assert answers_of("cb", examples, LABELS["cb"], scores) == [NO_ANSWER, NO_ANSWER, c]
    found = evaluate("cb", examples, LABELS["cb"], scores)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx((0 + 2 / 3) / 2)  # no third class that nobody named
    pair = multirc({(0, 0): "10"})
    nothing = evaluate("multirc", pair, LABELS["multirc"], arrays([NAN, 0], []))
    assert nothing == {"accuracy": 0.0, "f1a": 0.0, "em": 0.0, "average": 0.0}
    silent = evaluate("record", [record(["Rome"], ["Rome"])], LABELS["record"], arrays([]))
    assert silent == {"em": 0.0, "f1": 0.0, "average": 0.0}
    generated = answers_of("wsc_generative", [wsc("True")] * 2, LABELS["wsc"], arrays([], [NAN]))
    assert generated == [NO_ANSWER, NO_ANSWER]


def test_all_of_one_class():
    e = LABELS["cb"][0]
    assert metrics_of("cb", labelled([e, e]), [e, e])["f1"] == 1.0
    wrong = multirc({(0, 0): "00"})
    assert metrics_of("multirc", wrong, ["0", "0"]) == {
        "accuracy": 1.0,
        "f1a": 0.0,  # none is right and none is said to be: as scikit-learn has it
        "em": 1.0,
        "average": 0.5,
    }


@pytest.mark.parametrize(
    ("task", "examples", "scores", "message"),
    [
        ("rte", labelled(["entailment"]), [], "rte: 0 arrays of scores for 1 examples"),
        ("rte", labelled(["entailment"]), arrays([1, 2, 3]), "3 scores of dev-0: 2 labels"),
        ("rte", [], [], "rte: no examples to evaluate"),
        ("rte", labelled([None]), arrays([1, 2]), "dev-0 has no label"),
        ("record", [record(["Rome"], [])], arrays([1]), "dev-p0-q0 has no label"),
        ("snli", labelled(["entailment"]), arrays([1, 2]), "snli"),
    ],
)
def test_refusals(task: str, examples: list[Example], scores: list[np.ndarray], message: str):
    with pytest.raises(ValueError, match=message):
        evaluate(task, examples, LABELS["rte"], scores)


def test_majority():
    yes, no = LABELS["rte"]
    dev = labelled([yes, no, no])
    assert majority("rte", labelled([yes, yes, no]), dev, LABELS["rte"])["accuracy"] == 1 / 3
    # a tie goes to the first label
    assert majority("rte", labelled([no, yes]), dev, LABELS["rte"])["accuracy"] == 1 / 3
    with pytest.raises(ValueError, match="needs labelled training examples"):
        majority("rte", labelled([None]), dev, LABELS["rte"])


def test_majority_of_record_is_the_most_frequent_entity():
    questions = [
        record(["Oslo", "Rome"], ["Rome"], "Rome is not Oslo. Rome is Rome."),
        record(["Ann", "Bob"], ["Bob"], "Ann met Bob."),  # a tie: the first
        record(["Ann", "Bob"], ["Ann"], "Bob met Ann."),
    ]
    assert majority("record", [], questions, LABELS["record"])["em"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("task", "folder", "percent"),
    [
        # the share of the most frequent label of the official validation sets
        ("boolq", "BoolQ", 62.2),
        ("rte", "RTE", 52.7),
        ("wic", "WiC", 50.0),
        ("cb", "CB", 50.0),
        ("copa", "COPA", 55.0),
        ("wsc", "WSC", 63.5),
        ("multirc", "MultiRC", 57.2),
    ],
)
def test_majority_of_official_validation_sets(task: str, folder: str, percent: float):
    file = file_of(FEWGLUE / folder, "valid")
    if not file.is_file():
        pytest.skip(f"needs {file.name} of {folder} in ../shared/data/fewglue")
    dev = read_examples(task, file, "dev")
    found = majority(task, dev, dev, LABELS[task])
    assert round(100 * found["accuracy"], 1) == percent
