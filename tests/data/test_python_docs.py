"""Real text that comes with Python."""

import json
from pathlib import Path

import pytest

from glmkd_nemo.data import python_docs


def test_docstrings_are_parsed_not_run() -> None:
    source = (
        '"""Module text."""\nraise SystemExit\n'
        'class A:\n    """Class text.\n\n    More.\n    """\n'
        '    async def f(self):\n        "Function text."\n    def g(self): pass\n'
    )
    assert python_docs.docstrings(source) == [
        "Module text.",
        "Class text.\n\nMore.",
        "Function text.",
    ]
    with pytest.raises(SyntaxError):
        python_docs.docstrings("def (:")


def test_topics_are_a_language_reference() -> None:
    topics = python_docs.topic_documents()
    assert len(topics) > 50
    assert sum(len(text.split()) for text in topics) > 40_000


def test_modules_without_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.py").write_text('"""Text of module b, long enough."""\n')
    (tmp_path / "a.py").write_text(
        'def f():\n    """Text of module b, long enough."""\ndef g():\n    "Short."\n'
        'def h():\n    """Another text that is long enough."""\n'
    )
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "latin.py").write_bytes(b'"""\xe9 not utf eight at all"""')
    for skipped in ("test", "site-packages"):
        (tmp_path / skipped).mkdir()
        (tmp_path / skipped / "c.py").write_text('"""This must never be seen."""\n')
    monkeypatch.setattr(python_docs.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert [f.name for f in python_docs.stdlib_files()] == [
        "a.py",
        "b.py",
        "broken.py",
        "latin.py",
    ]
    assert list(python_docs.module_documents()) == [
        "Text of module b, long enough.\n\nAnother text that is long enough."
    ]
    file = tmp_path / "out" / "docs.jsonl"
    count = python_docs.write_python_docs(file)
    rows = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    assert len(rows) == count == len(set(rows))
    assert rows == python_docs.documents()
    assert [p.name for p in file.parent.iterdir()] == ["docs.jsonl"]


def test_the_real_library_has_docstrings() -> None:
    files = {f.name: f for f in python_docs.stdlib_files()}
    assert len(files) > 100
    texts = python_docs.docstrings(files["textwrap.py"].read_text(encoding="utf-8"))
    assert len(" ".join(texts).split()) > 300
