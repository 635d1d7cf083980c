"""Raw text files -> documents: jsonl, plain text, each plain or gzipped.

Nothing malformed is skipped silently: every such row becomes a `BadRow` that names file and line.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

JSON_SUFFIXES = (".jsonl", ".json", ".jl")
TEXT_SUFFIXES = (".txt", ".text", ".md")
RAW_SUFFIXES = JSON_SUFFIXES + TEXT_SUFFIXES


@dataclass(frozen=True)
class BadRow:
    """A row that gave no document."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class RawRow:
    """Bytes of one document as found, with the file and its first line (from 1)."""

    file: str
    line: int
    data: bytes


def raw_suffix(path: str | Path) -> str:
    """The suffix that tells the format, without .gz; "" for other files."""
    name = Path(path)
    suffix = Path(name.stem).suffix if name.suffix == ".gz" else name.suffix
    return suffix.lower() if suffix.lower() in RAW_SUFFIXES else ""


def check_raw_file(path: str | Path) -> Path:
    """The file, if it can be read as a corpus.

    Raises:
        FileNotFoundError: not there.
        ValueError: a folder, an unknown format, or empty.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"corpus file {file} does not exist")
    if not file.is_file():
        raise ValueError(f"corpus {file} is not a file; give the files in it one by one")
    if not raw_suffix(file):
        known = ", ".join(RAW_SUFFIXES)
        raise ValueError(f"corpus {file}: unknown format; name it {known} (or that with .gz)")
    if file.stat().st_size == 0:
        raise ValueError(f"corpus file {file} is empty")
    return file


def rows(file: Path, document_by: str = "auto") -> Iterator[tuple[RawRow, int]]:
    """Documents of one file, undecoded.

    Args:
        file: checked by `check_raw_file`.
        document_by: "line", "blank_line" (plain text only) or "auto": line for jsonl, blank_line
            for plain text.

    Yields:
        The row and how many bytes of the file (compressed size for .gz) have been read so far.

    Raises:
        ValueError: a broken or truncated .gz file, or blank_line for jsonl.
    """
    is_json = raw_suffix(file) in JSON_SUFFIXES
    if document_by == "auto":
        document_by = "line" if is_json else "blank_line"
    if is_json and document_by != "line":
        raise ValueError(f"{file}: jsonl holds one document a line; document_by must be line")
    with file.open("rb") as raw:
        stream: BinaryIO = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw  # type: ignore[assignment]
        try:
            for row in _group(str(file), stream, document_by == "line"):
                yield row, raw.tell()
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{file} is not a complete gzip file: {error}") from error


def _group(name: str, stream: BinaryIO, by_line: bool) -> Iterator[RawRow]:
    first = 1
    parts: list[bytes] = []
    for number, line in enumerate(iter(stream.readline, b""), start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if by_line:
            yield RawRow(name, number, line)
        elif line.strip():
            first = number if not parts else first
            parts.append(line)
        elif parts:
            yield RawRow(name, first, b"".join(parts))
            parts = []
    if parts:
        yield RawRow(name, first, b"".join(parts))


def decode_row(row: RawRow, text_key: str) -> str | BadRow:
    """Text of a row, or why there is none."""

    def bad(reason: str, line: int = row.line) -> BadRow:
        return BadRow(row.file, line, reason)

    try:
        text = row.data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = row.line + row.data[: error.start].count(b"\n")
        return bad(f"not UTF-8 (byte 0x{row.data[error.start]:02x})", line)
    if raw_suffix(row.file) in JSON_SUFFIXES:
        if not text.strip():
            return bad("empty line")
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            return bad(f"not JSON ({error})")
        if not isinstance(value, dict) or text_key not in value:
            keys = sorted(value)[:8] if isinstance(value, dict) else type(value).__name__
            return bad(f"no key {text_key!r} (found {keys})")
        if not isinstance(value[text_key], str):
            return bad(f"{text_key!r} is {type(value[text_key]).__name__}, not text")
        text = value[text_key]
    text = text.strip()
    return text if text else bad("empty text")
