"""Files of sequence-to-sequence sets -> pairs of texts; what is wrong is named by file and line.

- CNN/DailyMail, Gigaword: ``{train,val,test}.source`` and ``.target``, one text a line;
- XSum: ``XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json`` with ids, and a ``ID.summary`` for each, as
  published; or ``.source`` and ``.target`` as above;
- SQuAD for questions: ``{train,dev,test}.json``, a list of articles, or SQuAD's form (``data``);
- blank filling: ``{train,valid,test}.txt``, and ``blank/test.maskratio0.1.blank`` (by ratio).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkd_nemo.data.seq2seq import clean
from glmkd_nemo.data.text_files import bad_line, read_lines, read_text

_SHOWN = 5
XSUM_SPLITS = "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
Clean = Callable[[str, bool], str]


@dataclass(frozen=True)
class Pair:
    """What is read and what is to be written.

    Attributes:
        source, target: texts.
        answer: of a question that is to be written (SQuAD).
    """

    source: str
    target: str
    answer: str = ""


Row = Pair | ValueError


def usable(rows: Sequence[Row], max_bad_rows: int) -> list[Pair]:
    """The pairs; each row left out is named.

    Raises:
        ValueError: more than `max_bad_rows` cannot be used, or all of them.
    """
    bad = [str(row) for row in rows if isinstance(row, ValueError)]
    pairs = [row for row in rows if isinstance(row, Pair)]
    if len(bad) > max_bad_rows or not pairs:
        shown = "\n  ".join(bad[:_SHOWN])
        raise ValueError(
            f"{len(bad)} unusable rows (task.max_bad_rows={max_bad_rows}); the first:\n  {shown}"
        )
    for reason in bad[:_SHOWN]:
        print(f"left out: {reason}", file=sys.stderr)
    return pairs


def parallel_lines(first: Path, second: Path) -> list[tuple[str, str]]:
    """Lines of two files that belong together.

    Raises:
        FileNotFoundError, ValueError: missing or unreadable files, or different numbers of lines.
    """
    one, two = read_lines(first), read_lines(second)
    if len(one) != len(two):
        short, long, n = (
            (first, second, len(one)) if len(one) < len(two) else (second, first, len(two))
        )
        raise bad_line(short, n, f"ends here, but {long} has {max(len(one), len(two))} lines")
    return list(zip(one, two, strict=True))


def read_lines_of(folder: Path, split: str, cleaned: Clean) -> list[Row]:
    """``.source`` and ``.target`` of a split ("train", "valid", "test")."""
    stem = {"valid": "val"}.get(split, split)
    files = folder / f"{stem}.source", folder / f"{stem}.target"
    rows: list[Row] = []
    for i, texts in enumerate(parallel_lines(*files), start=1):
        empty = [file for file, text in zip(files, texts, strict=True) if not text]
        if empty:
            rows.append(bad_line(empty[0], i, "empty line"))
            continue
        source, target = map(clean.plain_marks, texts)
        rows.append(Pair(cleaned(source, False), cleaned(target, True)))
    return rows


def read_xsum(folder: Path, split: str) -> list[Row]:
    """XSum as published, or as ``.source`` and ``.target``."""
    splits = folder / XSUM_SPLITS
    if not splits.is_file():
        return read_lines_of(folder, split, lambda text, is_target: text)
    key = {"valid": "validation"}.get(split, split)
    ids = _json(splits)
    if not isinstance(ids, dict) or not isinstance(ids.get(key), list):
        raise ValueError(f"{splits}: no list of ids under {key!r}")
    return [_summary(folder / f"{name}.summary") for name in ids[key]]


def _summary(file: Path) -> Row:
    """One document: parts begin with a line such as [SN]RESTBODY[SN]."""
    mark = "[SN]"
    parts: dict[str, list[str]] = {}
    try:
        lines = read_lines(file)
    except (ValueError, OSError) as error:
        return ValueError(str(error))
    part: list[str] = []
    for line in lines:
        if line.startswith(mark):
            part = parts.setdefault(line.removeprefix(mark).removesuffix(mark), [])
        elif line:
            part.append(line)
    for key in ("RESTBODY", "FIRST-SENTENCE"):
        if not parts.get(key):
            return bad_line(file, len(lines), f"ends without text under {mark}{key}{mark}")
    return Pair(" ".join(parts["RESTBODY"]), " ".join(parts["FIRST-SENTENCE"]))


def read_squad(folder: Path, split: str) -> list[Row]:
    """A pair for each question and answer; the question is the target.

    (The reference compares with the answer, and has none in the test set.)
    """
    file = folder / f"{ {'valid': 'dev'}.get(split, split) }.json"
    articles = _json(file)
    if isinstance(articles, dict):
        articles = articles.get("data")
    if not isinstance(articles, list):
        raise ValueError(f"{file}: neither a list of articles nor one under 'data'")
    rows: list[Row] = []
    for place, paragraph in _members(articles, "", "paragraphs"):
        if not isinstance(paragraph, dict) or "context" not in paragraph:
            rows.append(ValueError(f"{file}: {place} has no 'context'"))
            continue
        for qa_place, qa in _members([paragraph], place, "qas"):
            rows += _questions(f"{file}: {qa_place}", paragraph["context"], qa)
    return rows


def _members(parents: Sequence[Any], place: str, key: str) -> Iterator[tuple[str, Any]]:
    """Entries of the list `key` of each parent, with where they are."""
    for i, parent in enumerate(parents):
        here = place or f"article {i + 1}"
        inner = parent.get(key) if isinstance(parent, dict) else None
        for j, entry in enumerate(inner if isinstance(inner, list) else ()):
            yield f"{here}, {key} {j + 1}", entry


def _questions(place: str, context: str, qa: Any) -> Iterator[Row]:
    """Pairs of one question, one for each different answer."""
    try:
        question, answers = qa["question"].strip(), [a["text"] for a in qa["answers"]]
    except (KeyError, TypeError, AttributeError):
        yield ValueError(f"{place} has no 'question' with 'answers' with 'text'")
        return
    for answer in dict.fromkeys(answers):
        if not question or not answer or answer not in context:
            yield ValueError(f"{place}: empty, or {answer!r} is not in its paragraph")
        else:
            yield Pair(context, question, answer)


def _json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise bad_line(file, getattr(error, "lineno", 1), f"not JSON ({error})") from error
