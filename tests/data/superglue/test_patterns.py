"""The table of cloze questions."""

from __future__ import annotations

import pytest

from glmkd_nemo.data.superglue import LABELS, TASKS, Example
from glmkd_nemo.data.superglue.patterns import PATTERNS, answers, filled, verbalizers

COUNTS = {"record": 1, "copa": 3, "rte": 5, "cb": 5, "boolq": 6, "multirc": 5, "wic": 3}
EXAMPLE = Example(
    "train-0",
    "One {two} | three~.",
    "Is it @placeholder?",
    meta={
        "word": "two",
        "choice1": "First!",
        "choice2": "Second.",
        "question": "cause",
        "answer": "An answer",
        "span1_text": "One",
        "span2_text": "{two}",
        "span2_index": 1,
        "candidates": ["three", "four"],
    },
)


def test_every_task_has_its_patterns():
    assert set(PATTERNS) == set(TASKS)
    assert {task: len(PATTERNS[task]) for task in COUNTS} == COUNTS
    assert len(PATTERNS["wsc"]) == len(PATTERNS["wsc_generative"]) == 3


@pytest.mark.parametrize("task", TASKS)
def test_every_pattern_has_one_blank_and_can_be_shortened(task: str):
    for pattern_id in range(len(PATTERNS[task])):
        parts = [part for segment in filled(task, pattern_id, EXAMPLE) for part in segment]
        assert sum(part.blank for part in parts) == 1
        assert any(part.shortenable for part in parts)
        assert not any(part.shortenable for part in parts if part.blank)
        assert len(answers(task, pattern_id, EXAMPLE)) >= 2


def test_verbalizers_follow_the_labels():
    for task in ("rte", "cb", "boolq", "multirc", "wic"):
        for pattern_id in range(len(PATTERNS[task])):
            words = verbalizers(task, pattern_id)
            assert len(set(words)) == len(words) == len(LABELS[task])
    assert verbalizers("rte", 0) == (" Yes", " No")
    assert verbalizers("boolq", 3) == (" false", " true")


def test_marks_in_an_example_are_only_text():
    """Braces, bars and tildes mean something in patterns, not in what fills them."""
    (parts,) = filled("wsc", 0, EXAMPLE)
    assert parts[0].text == "One *{two}* | three~."
    assert parts[0].shortenable
    assert parts[1].text == " The pronoun '*{two}*' refers to"


def test_copa_asks_for_the_joiner_in_pattern_2():
    assert answers("copa", 2, EXAMPLE) == [" because", " because"]
    assert [filled("copa", 2, EXAMPLE, i)[0][-1].text for i in (0, 1)] == [" first", " second"]
    assert answers("copa", 0, EXAMPLE) == [" first", " second"]
