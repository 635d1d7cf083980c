"""Text files of tasks, read strictly: what is wrong is named by file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

from glmkd_nemo.data.readers import (
    JSON_SUFFIXES,
    BadRow,
    RawRow,
    decode_row,
    raw_suffix,
)

DOCUMENT_BY = ("file", "line", "blank_line")


def bad_line(file: Path, line: int, reason: str) -> ValueError:
    """An error that names file and line (from 1), to be raised."""
    return ValueError(str(BadRow(str(file), line, reason)))


def read_text(file: Path) -> str:
    """The whole file (.gz: unpacked) without a byte-order mark.

    Raises:
        FileNotFoundError: not there.
        ValueError: empty, not UTF-8, or a broken .gz file; by file and line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{file} is not a complete gzip file: {error}") from error
    if not data.strip():
        raise ValueError(f"{file} is empty")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise bad_line(file, line, f"not UTF-8 (byte 0x{data[error.start]:02x})") from error


def read_lines(file: Path) -> list[str]:
    """Lines of a file, stripped; line i + 1 is at index i. Only line feeds end a line.

    Raises:
        FileNotFoundError, ValueError: as in `read_text`.
    """
    return [line.strip() for line in read_text(file).removesuffix("\n").split("\n")]


def read_documents(file: Path, document_by: str, text_key: str) -> list[tuple[int, str]]:
    """Documents of a file, with their first lines.

    Args:
        file: .jsonl (one document a row, whatever `document_by`) or any text, each plain or .gz.
        document_by: of text: one of `DOCUMENT_BY`. Blank lines between documents hold nothing.
        text_key: key of the text in jsonl rows.

    Raises:
        FileNotFoundError: not there.
        ValueError: empty, not UTF-8, or a row without text; by file and line.
    """
    if raw_suffix(file) in JSON_SUFFIXES:
        return _json_documents(file, text_key)
    if document_by == "file":
        return [(1, read_text(file))]
    lines = read_lines(file)
    if document_by == "line":
        return [(i, line) for i, line in enumerate(lines, start=1) if line]
    found: list[tuple[int, list[str]]] = []
    for i, line in enumerate(lines, start=1):
        if line and (i == 1 or not lines[i - 2]):
            found.append((i, []))
        if line:
            found[-1][1].append(line)
    return [(i, "\n".join(part)) for i, part in found]


def _json_documents(file: Path, text_key: str) -> list[tuple[int, str]]:
    data = read_text(file)  # first: its errors are the clearest
    found = []
    for i, line in enumerate(data.removesuffix("\n").split("\n"), start=1):
        text = decode_row(RawRow(str(file), i, line.encode()), text_key)
        if isinstance(text, BadRow):
            raise ValueError(str(text))
        found.append((i, text))
    return found
