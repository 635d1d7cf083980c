"""Strict reading of JSON lines: whatever is wrong with a row is said with its file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CURLY = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2013": "-"})


class BadRow(ValueError):
    """A row that cannot be used: ``FILE:LINE: what is wrong, and what to do``."""

    def __init__(self, file: str | Path, line: int, what: str) -> None:
        super().__init__(f"{file}:{line}: {what}")
        self.file, self.line, self.what = str(file), line, what


@dataclass(frozen=True)
class Reading:
    """What the examples are read for.

    Attributes:
        kind: ``train``, ``dev``, ``test`` or ``unlabeled``; begins every ``guid``.
        for_train: ReCoRD: make training examples of a dev split.
        cloze: WSC: leave out what a cloze question cannot learn from.
        max_choices: answers of a training example of ReCoRD or WSC.
        answer_order: ReCoRD: right answers in another order than the file's, by question.
    """

    kind: str = "train"
    for_train: bool = False
    cloze: bool = True
    max_choices: int = 10
    answer_order: Mapping[int, Sequence[str]] | None = None

    @property
    def labelled(self) -> bool:
        """Whether every row must have a label."""
        return self.kind in ("train", "dev")


@dataclass(frozen=True)
class Row:
    """A JSON object of a file, or one inside it.

    Attributes:
        file, line: where it was read.
        values: its fields.
        at: where it stands inside the line's object, as a prefix (``passage.questions[0].``).
    """

    file: str
    line: int
    values: dict[str, Any]
    at: str = ""

    @property
    def where(self) -> str:
        """``FILE:LINE``."""
        return f"{self.file}:{self.line}"

    def bad(self, what: str) -> BadRow:
        """The error to be raised for this row."""
        return BadRow(self.file, self.line, what)

    def text(self, key: str) -> str:
        """A field that is a text with something in it."""
        value = self._typed(key, str, "a text")
        if not value.strip():
            raise self.bad(f"{self.at}{key} is empty; fill it in or remove the row")
        return value

    def plain(self, key: str) -> str:
        """:meth:`text` with straight quotes and hyphens for typographic ones."""
        return straight(self.text(key))

    def number(self, key: str) -> int:
        """A field that is a whole number >= 0 (digits in quotes count)."""
        value = self.values.get(key)
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        number = self._typed(key, int, "a whole number")
        if number < 0:
            raise self.bad(f"{self.at}{key} is {number}; it must be 0 or more")
        return number

    def label(self, labels: Sequence[str], required: bool) -> str | None:
        """The field ``label``, spelled as in `labels`; ``None`` if it may be, and is, left out.

        A truth value stands for the label of its name, a number for the label of its digits.
        """
        value = self.values.get("label")
        if value is None:
            if required:
                raise self.missing("label")
            return None
        name = str(value) if isinstance(value, str | int) else ""
        for label in labels:
            if label == name or (isinstance(value, bool) and label.lower() == name.lower()):
                return label
        raise self.bad(f"{self.at}label is {_short(value)}; it must be one of {', '.join(labels)}")

    def inner(self, key: str) -> Row:
        """A field that is an object."""
        value = self._typed(key, dict, "an object")
        return Row(self.file, self.line, value, f"{self.at}{key}.")

    def list_of(self, key: str, required: bool = True) -> list[Row]:
        """A field that is a list of objects; an empty list if it is left out and may be."""
        if not required and key not in self.values:
            return []
        rows = []
        for i, value in enumerate(self._typed(key, list, "a list")):
            at = f"{self.at}{key}[{i}]"
            if not isinstance(value, dict):
                raise self.bad(f"{at} is {_short(value)}; it must be an object")
            rows.append(Row(self.file, self.line, value, f"{at}."))
        return rows

    def missing(self, key: str) -> BadRow:
        """The error of a field that is not there."""
        found = ", ".join(self.values) or "nothing"
        return self.bad(f"{self.at}{key} is missing (found: {found}); add it or remove the row")

    def _typed(self, key: str, kind: type, name: str) -> Any:
        value = self.values.get(key)
        if value is None:
            raise self.missing(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise self.bad(f"{self.at}{key} is {_short(value)}; it must be {name}")
        return value


def straight(text: str) -> str:
    """The text with straight quotes and hyphens for typographic ones, character for character."""
    return text.translate(_CURLY)


def read_rows(path: str | Path) -> list[Row]:
    """Rows of a JSON lines file, each with an ``idx`` of its own.

    Raises:
        FileNotFoundError: the file is missing.
        BadRow: an empty file or line, bytes that are not UTF-8, text that is not a JSON object, a
            key given twice in an object, an ``idx`` that is missing, no number or taken.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: check task.data_dir and the name of the split")
    rows = [_row(str(file), number, line) for number, line in _lines(file)]
    first: dict[int, int] = {}
    for row in rows:
        idx = row.number("idx")
        if idx in first:
            raise row.bad(f"idx {idx} is that of line {first[idx]} too; give each row its own")
        first[idx] = row.line
    return rows


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    data = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise BadRow(file, 1, "the file has no rows; fetch it again or remove the split")
    # Only line feeds separate rows: JSON texts may hold other line ends of Unicode.
    yield from enumerate(data.removesuffix(b"\n").split(b"\n"), start=1)


def _row(file: str, number: int, line: bytes) -> Row:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        raise BadRow(file, number, f"not UTF-8 ({byte}); save the file as UTF-8") from error
    if not text.strip():
        raise BadRow(file, number, "an empty line; remove it")
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except _Twice as twice:
        raise BadRow(file, number, f"key {twice} is given twice; keep one") from twice
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadRow(file, number, _not_json(error)) from error
    if not isinstance(value, dict):
        raise BadRow(file, number, f"{_short(value)}, not a JSON object {{...}}; one row per line")
    return Row(file, number, value)


def _not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        place = f"{error.msg} at column {error.colno}"
        if "string" in error.msg or "delimiter" in error.msg:
            place += '; look for a quote (") that is not closed, or not written \\" inside a text'
    else:
        place = "nested too deeply"
    return f"not JSON: {place}"


class _Twice(Exception):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(repr(key) for key in keys if keys.count(key) > 1))
    return values


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
