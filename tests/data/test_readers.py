"""Documents of raw files, and every kind of malformed row by name."""

import gzip
import json
import re
from pathlib import Path

import pytest

from glmkd_nemo.data.readers import BadRow, check_raw_file, decode_row, raw_suffix, rows


def documents(file: Path, by: str = "auto", key: str = "text") -> list[str]:
    return [str(decode_row(row, key)) for row, _ in rows(check_raw_file(file), by)]


def test_text_by_blank_line_and_by_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\nstill one\r\n\n \t\n\ntwo é\n".encode())
    assert documents(file) == ["one\nstill one", "two é"]
    by_line = documents(file, "line")
    assert [d for d in by_line if "empty" not in d] == ["one", "still one", "two é"]
    assert f"{file}:3: empty text" in by_line


def test_gzip_is_read_like_plain(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    data = b"".join(json.dumps({"text": f"row {i}"}).encode() + b"\n" for i in range(50))
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    assert documents(plain) == documents(packed) == [f"row {i}" for i in range(50)]
    packed.write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is not a complete gzip file"):
        documents(packed)
    packed.write_bytes(b"not gzip at all")
    with pytest.raises(ValueError, match="not a complete gzip file"):
        documents(packed)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n' * 10)
    read = [done for _, done in rows(file)]
    assert read == sorted(read)
    assert read[-1] == file.stat().st_size


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a', "not JSON"),
        (b'{"body": "a"}', r"no key 'text' \(found \['body'\]\)"),
        (b'["text"]', r"no key 'text' \(found list\)"),
        (b'{"text": 5}', "'text' is int, not text"),
        (b'{"text": "  "}', "empty text"),
        (b"", "empty line"),
        (b'{"text": "\xff"}', r"not UTF-8 \(byte 0xff\)"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_malformed_rows(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "also good"}\n')
    found = [decode_row(row, "text") for row, _ in rows(file)]
    assert [found[0], found[2]] == ["good", "also good"]
    bad = found[1]
    assert isinstance(bad, BadRow)
    assert (bad.file, bad.line) == (str(file), 2)
    assert re.search(reason, bad.reason), bad.reason


def test_bad_byte_inside_a_paragraph_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"fine\n\none\ntwo\nthree \xe9\n")
    found = [decode_row(row, "text") for row, _ in rows(file)]
    assert found[0] == "fine"
    assert str(found[1]) == f"{file}:5: not UTF-8 (byte 0xe9)"


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.txt does not exist"):
        check_raw_file(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="is not a file"):
        check_raw_file(tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        check_raw_file(tmp_path / "empty.txt")
    (tmp_path / "a.pdf").write_bytes(b"x")
    with pytest.raises(ValueError, match="unknown format"):
        check_raw_file(tmp_path / "a.pdf")
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="document_by must be line"):
        documents(tmp_path / "a.jsonl", "blank_line")
    assert raw_suffix("x/corpus_text_document") == ""
    assert raw_suffix("A.TXT") == ".txt"
