"""Made-up rows of the SuperGLUE tasks, in the form of the official files: to try recipes with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PEOPLE = ("Anna", "Peter", "Mary", "John", "Ruth", "Thomas")
THINGS = ("book", "letter", "key", "table", "window", "garden")
SPLITS = {"train": 12, "val": 6, "test": 4}


def write_tasks(folder: Path) -> list[str]:
    """Writes a folder for each task; returns the sentences in them, for a vocabulary.

    Labels follow from the text, and take turns.
    """
    for name, make in _TASKS.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        first = 0
        for split, count in SPLITS.items():
            rows = [{**make(first + i), "idx": first + i} for i in range(count)]
            lines = (json.dumps(row) for row in rows)
            (place / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            first += count
    return [f"{_story(i)} {_PATTERN_WORDS}" for i in range(sum(SPLITS.values()))]


# words of cloze questions and of their answers: a vocabulary made of the text has them whole
_PATTERN_WORDS = "Yes, no or maybe? True, false or neither? Question: is it 2 or b? because, so."


def _who(i: int) -> tuple[str, str, str, str]:
    n = len(PEOPLE)
    names = PEOPLE[i % n], PEOPLE[(i + 1) % n], PEOPLE[(i + 3) % n]
    return *names, THINGS[(i // 2) % len(THINGS)]


def _story(i: int) -> str:
    giver, taker, third, thing = _who(i)
    return f"{giver} gave the {thing} to {taker} . {third} saw it ."


def _rte(i: int) -> Row:
    _giver, taker, third, thing = _who(i)
    owner, label = (taker, "entailment") if i % 2 else (third, "not_entailment")
    return {"premise": _story(i), "hypothesis": f"{owner} has the {thing} .", "label": label}


def _cb(i: int) -> Row:
    giver, taker, _, thing = _who(i)
    claims = (
        (f"{taker} has the {thing} .", "entailment"),
        (f"{giver} has the {thing} .", "contradiction"),
        (f"The {thing} is new .", "neutral"),
    )
    claim, label = claims[i % 3]
    return {"premise": _story(i), "hypothesis": claim, "label": label}


def _boolq(i: int) -> Row:
    _giver, taker, third, thing = _who(i)
    owner = taker if i % 2 else third
    question = f"does {owner} have the {thing}"
    return {"question": question, "passage": _story(i), "label": bool(i % 2)}


def _copa(i: int) -> Row:
    giver, taker, _, thing = _who(i)
    choices = [f"{taker} asked for it.", f"{taker} was away."]
    if i % 2:
        choices.reverse()
    premise = f"{giver} gave the {thing} to {taker}."
    question = "effect" if i % 4 > 1 else "cause"
    return {
        "premise": premise,
        "choice1": choices[0],
        "choice2": choices[1],
        "question": question,
        "label": i % 2,
    }


def _wic(i: int) -> Row:
    giver, taker, _, thing = _who(i)
    second = f"{taker} has a {thing} ." if i % 2 else f"To {thing} is hard ."
    return {
        "word": thing,
        "sentence1": f"{giver} saw the {thing} .",
        "sentence2": second,
        "label": bool(i % 2),
    }


def _wsc(i: int) -> Row:
    """The pronoun is word 4, the name that it stands for word 2."""
    giver, taker, third, thing = _who(i)
    right = bool(i % 2)
    target = {
        "span1_text": taker if right else giver,
        "span1_index": 2 if right else 0,
        "span2_text": "they",
        "span2_index": 4,
    }
    text = f"{giver} thanked {taker} because they gave the {thing} to {third} ."
    return {"text": text, "target": target, "label": right}


def _wsc_with_candidates(i: int) -> Row:
    """All rows are true ones: only those are learnt from."""
    row = _wsc(2 * i + 1)
    others = [row["text"].split()[0], row["text"].split()[-2]]
    return {**row, "candidates": [{"text": name} for name in others]}


def _multirc(i: int) -> Row:
    _giver, taker, third, thing = _who(i)
    answers = [
        {"idx": number, "text": name, "label": int(name == taker)}
        for number, name in enumerate((taker, third))
    ]
    question = {"idx": 0, "question": f"Who has the {thing}?", "answers": answers}
    return {"passage": {"text": _story(i), "questions": [question]}}


def _record(i: int) -> Row:
    giver, taker, third, thing = _who(i)
    text = _story(i)
    places = {name: text.index(name) for name in (giver, taker, third)}
    entities = [{"start": at, "end": at + len(name) - 1} for name, at in places.items()]
    answer = {"start": places[taker], "end": places[taker] + len(taker) - 1, "text": taker}
    question = {"idx": i, "query": f"The {thing} is with @placeholder .", "answers": [answer]}
    return {"passage": {"text": text, "entities": entities}, "qas": [question]}


_TASKS: dict[str, Callable[[int], Row]] = {
    "RTE": _rte,
    "CB": _cb,
    "BoolQ": _boolq,
    "COPA": _copa,
    "WiC": _wic,
    "WSC": _wsc,
    "WSC-negative": _wsc_with_candidates,
    "MultiRC": _multirc,
    "ReCoRD": _record,
}
