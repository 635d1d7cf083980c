"""The demo's text: no piece on two sides of the split, blanks that come from the test text."""

import json
from pathlib import Path

import pytest

from glmkd_nemo.demo.text import PIECE_CHARACTERS, choose_blanks, deal_out, pieces_of, write_jsonl


def test_repeated_paragraphs_are_kept_once() -> None:
    pieces = pieces_of(["First one.\n\nShared  text.", "Shared text.\n\nSecond one."])
    assert pieces == ["First one.\nShared text.", "Second one."]


def test_a_long_document_is_cut_at_paragraphs() -> None:
    document = "\n\n".join(f"{i} " + "word " * 100 for i in range(20))
    pieces = pieces_of([document])
    assert len(pieces) > 3
    assert all(len(piece) < PIECE_CHARACTERS + 600 for piece in pieces)
    assert sum(piece.count("word") for piece in pieces) == 2000


def test_the_split_is_a_partition() -> None:
    pieces = [f"piece {i}" for i in range(101)]
    split = deal_out(pieces)
    assert sorted(p for part in split.values() for p in part) == sorted(pieces)
    assert (len(split["valid"]), len(split["test"])) == (5, 5)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gives 3 pieces.*needs 40.*CORPUS=path"):
        deal_out(["a", "b", "c"])


def test_rows_are_json(tmp_path: Path) -> None:
    write_jsonl(['say "hi"\nthere'], tmp_path / "a.jsonl")
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"text": 'say "hi"\nthere'}


def test_blanks_are_frequent_words_of_test_sentences() -> None:
    train = ["return the value of the string object " * 30]
    test = [
        "This method will return the default value now. Nothing unusual appears here anywhere.",
        "Another plain sentence that mentions the string again. X.",
    ]
    blanks = choose_blanks(train, test)
    assert sorted(word for _, word in blanks) == ["return", "string"]
    for text, word in blanks:
        assert text.count("[MASK]") == 1
        assert text.replace("[MASK]", word) in " ".join(test)
