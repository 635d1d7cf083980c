"""A conversion replaces a checkpoint, and nothing else, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkd_nemo.checkpoint import convert
from tests.checkpoint.originals import (
    HEADS,
    STUDENT,
    error,
    read_module,
    run,
    same,
    weights_of,
    whole,
    write,
)

OVER = ("format=original", "overwrite=true")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "work" / "a", weights_of(STUDENT))


def test_the_source_is_not_taken_along(source: Path, capsys: pytest.CaptureFixture[str]):
    for target, how in ((source.parent, "contains"), (source / "120" / "x", "lies in")):
        assert f"{how} the source" in error(capsys, f"source={source}", f"target={target}", *OVER)
    assert same(whole(source), weights_of(STUDENT))


def test_only_checkpoints_are_replaced(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    there = [f"source={source}", HEADS, "overwrite=true"]
    for number, form in enumerate(("original", "huggingface", "original")):
        run(capsys, *there, f"target={tmp_path / 'b'}", f"format={form}")
        assert (tmp_path / "b" / "config.json").is_file() == (number == 1)
    mine = tmp_path / "b" / "notes.txt"
    mine.write_text("mine")
    text = error(capsys, *there, f"target={tmp_path / 'b'}", "format=original")
    assert "or has more in it (notes.txt)" in text
    for name in ("config.json", "latest"):  # of something else
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("{}")
        text = error(capsys, *there, f"target={tmp_path / name}", "format=original")
        assert "is no checkpoint" in text
    text = error(capsys, *there, f"target={mine}", "format=original")
    assert "notes.txt is a file, and a folder is to be written" in text
    text = error(capsys, *there, f"target={tmp_path / 'b'}", "format=nemo")
    assert "b is a folder, and a file is to be written" in text
    text = error(capsys, *there, f"target={mine}/c", "format=original")
    assert f"cannot write to {mine}" in text
    assert mine.read_text() == "mine"


def test_what_was_there_stays_if_writing_fails(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    there = [f"source={source}", f"target={tmp_path / 'b'}", *OVER]
    run(capsys, *there)
    (tmp_path / "b.tmp").mkdir()  # somebody's
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "folder":
            raise OSError("no space left")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    assert "no space left" in error(capsys, *there)
    monkeypatch.setattr(convert, "_write", lambda *_: (_ for _ in ()).throw(OSError("full")))
    assert "full" in error(capsys, *there)
    assert same(read_module(tmp_path / "b"), weights_of(STUDENT))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "b.tmp", "work"]
