"""Mistakes end with one line on stderr that says what to do, before anything is trained."""

from pathlib import Path

import pytest

from glmkd_nemo.demo.corpus import corpus_files, documents_of
from glmkd_nemo.demo.main import main


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("corpus={folder}/missing.txt", "missing.txt does not exist"),
        ("corpus={folder}/empty.txt", "empty.txt is empty"),
        ("corpus={folder}", "is empty"),
        ("corpus={folder}/image.png", "unknown format"),
        ("out={folder}/empty.txt/below", "choose another with out="),
        ("student.step=3", "did you mean student.steps="),
    ],
)
def test_a_mistake_is_one_line(
    argument: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "image.png").write_text("x")
    given = [f"out={tmp_path}/out", argument.format(folder=tmp_path)]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_folder_gives_its_text_files_and_names_bad_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    (tmp_path / "a.jsonl").write_text('{"text": "three"}\n{"other": 1}\n')
    (tmp_path / "c.bin").write_text("no")
    files = corpus_files(str(tmp_path))
    assert [file.name for file in files] == ["a.jsonl", "b.txt"]
    assert list(documents_of(files)) == ["three", "one\n\ntwo"]
    error = capsys.readouterr().err
    assert "a.jsonl:2" in error
    assert "1 malformed rows left out" in error
