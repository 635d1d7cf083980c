"""Rows of ReCoRD -> examples: entities of a passage that a query's placeholder may stand for."""

from __future__ import annotations

import random
from collections.abc import Sequence

from glmkd_nemo.data.superglue.example import Example
from glmkd_nemo.data.superglue.rows import Reading, Row

PLACEHOLDER = "@placeholder"
_SEED = 42  # of the draw of wrong entities: the reference's


def read_record(rows: list[Row], reading: Reading) -> list[Example]:
    """Examples of the rows; see :mod:`~glmkd_nemo.data.superglue.readers` for the rules."""
    shuffler = random.Random(_SEED)
    examples = []
    for row in rows:
        passage = row.inner("passage")
        text = passage.plain("text")
        entities = sorted({_entity(text, place) for place in passage.list_of("entities")})
        for question in row.list_of("qas"):
            examples += _examples(row, question, text, entities, reading, shuffler)
    return sorted(examples, key=lambda example: example.num_choices or 0)


def _entity(text: str, place: Row) -> str:
    start, end = place.number("start"), place.number("end")
    if not start <= end < len(text):
        raise place.bad(
            f"{place.at}start={start}, end={end} is outside the passage of {len(text)} characters "
            "(both count from 0, and end is the last character); correct the entity"
        )
    return text[start : end + 1]


def _examples(
    row: Row,
    question: Row,
    text: str,
    entities: list[str],
    reading: Reading,
    shuffler: random.Random,
) -> list[Example]:
    """The examples of one question."""
    passage_idx, question_idx = row.number("idx"), question.number("idx")
    query = question.plain("query")
    times = query.count(PLACEHOLDER)
    if times != 1:
        raise row.bad(f"{question.at}query must have {PLACEHOLDER} once, not {times} times")
    right = _answers(question, text, reading)
    # GPT-3's way (arXiv 2005.14165) to write the summary points
    shown = text.replace("@highlight\n", "- ")
    guid = f"{reading.kind}-p{passage_idx}-q{question_idx}"
    meta = {"passage_idx": passage_idx, "question_idx": question_idx}
    if not (reading.kind == "train" or (reading.kind == "dev" and reading.for_train)):
        if not entities:
            raise row.bad("passage.entities is empty; a question needs candidates")
        own = meta | {"candidates": entities, "answers": right}
        many = len(entities)
        return [Example(guid, shown, query, "1", question_idx, many, own, row.where)]
    examples = []
    for number, answer in enumerate(right):
        wrong = [entity for entity in entities if entity not in right]
        if len(wrong) > reading.max_choices - 1:
            shuffler.shuffle(wrong)
            wrong = wrong[: reading.max_choices - 1]
        own = meta | {"candidates": [answer, *wrong], "answers": [answer]}
        idx = [passage_idx, question_idx, number]
        many = len(wrong) + 1
        name = f"{guid}-a{number}"
        examples.append(Example(name, shown, query, "0", idx, many, own, row.where))
    return examples


def _answers(question: Row, text: str, reading: Reading) -> list[str]:
    """The right answers without repetition."""
    required = reading.labelled
    given = question.list_of("answers", required)
    if required and not given:
        raise question.bad(f"{question.at}answers is empty; give one or remove the question")
    right = []
    for answer in given:
        named = answer.plain("text")
        if named not in text:
            raise question.bad(
                f"{answer.at}text {named!r} is not in the passage; correct the answer"
            )
        right.append(named)
    unique = list(dict.fromkeys(right))
    order: Sequence[str] = (reading.answer_order or {}).get(question.number("idx"), ())
    return sorted(unique, key=order.index) if sorted(order) == sorted(unique) else unique
