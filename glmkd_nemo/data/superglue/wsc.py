"""Rows of WSC -> examples: words marked by index, and candidates for what a pronoun means."""

from __future__ import annotations

from typing import Any

from glmkd_nemo.data.superglue.config import LABELS
from glmkd_nemo.data.superglue.example import Example
from glmkd_nemo.data.superglue.rows import Reading, Row


def read_wsc(rows: list[Row], reading: Reading) -> list[Example]:
    """Examples of the rows; see :mod:`~glmkd_nemo.data.superglue.readers` for the rules."""
    return [example for row in rows for example in _examples(row, reading)]


def _examples(row: Row, reading: Reading) -> list[Example]:
    idx, label = row.number("idx"), row.label(LABELS["wsc"], reading.labelled)
    text, meta = _marked(row)
    if reading.cloze and reading.kind == "train" and label != "True":
        return []
    guid, several = f"{reading.kind}-{idx}", [meta]
    if "candidates" in row.values:
        wrong = list(dict.fromkeys(c.text("text") for c in row.list_of("candidates")))
        most = reading.max_choices - 1
        if reading.kind == "train" and len(wrong) > most:
            several = [meta | {"candidates": part} for part in _parts(wrong, most)]
        else:
            several = [meta | {"candidates": wrong}]
    return [Example(guid, text, "", label, idx, meta=m, where=row.where) for m in several]


def _parts(wrong: list[str], most: int) -> list[list[str]]:
    """Parts of exactly `most` candidates; the last is filled up with the first ones."""
    parts = [wrong[i : i + most] for i in range(0, len(wrong), most)]
    parts[-1] = parts[-1] + wrong[: most - len(parts[-1])]
    return parts


def _marked(row: Row) -> tuple[str, dict[str, Any]]:
    """The text, its words separated by single blanks, and where its two spans are.

    Raises:
        BadRow: a span that the text does not have (the second one: at its index, give or take one
            word; the first one: anywhere).
    """
    target, text = row.inner("target"), row.plain("text")
    span1, span2 = target.text("span1_text"), target.text("span2_text")
    first, second = target.number("span1_index"), target.number("span2_index")
    if _letters(span1) not in _letters(text):
        raise row.bad(f"target.span1_text {span1!r} is not in the text; correct it")
    words = text.split()
    first = _first_span(words, span1, first)
    place = next((i for i in (second, second - 1, second + 1) if _word(words, i) == span2), None)
    if place is None:
        place = second
        word = _word(words, second)
        if not word.startswith(span2):
            raise row.bad(
                f"target.span2_text {span2!r} is not word {second} of the text (counted from 0), "
                f"which is {word!r}; correct span2_index or span2_text"
            )
        words[second : second + 1] = [span2, word[len(span2) :]]
    meta = {"span1_text": span1, "span2_text": span2, "span1_index": first, "span2_index": place}
    return " ".join(words), meta


def _word(words: list[str], place: int) -> str:
    return words[place] if 0 <= place < len(words) else ""


def _first_span(words: list[str], span: str, place: int) -> int:
    """Where the span begins: `place` or next to it; `place` where it is at none of them."""
    wanted, lower = span.lower().split(), [word.lower() for word in words]
    for i in (place, place - 1, place + 1):
        if i >= 0 and lower[i : i + len(wanted)] == wanted:
            return i
    return place


def _letters(text: str) -> str:
    """The text's letters and digits in lower case: what is left when spelling does not matter."""
    return "".join(c for c in text.lower() if c.isalnum())
