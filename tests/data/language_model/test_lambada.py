"""LAMBADA: the arrays of a passage, and bad rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.data.language_model import Lambada, LanguageModelConfig
from glmkd_nemo.data.tokenizer import GLMTokenizer
from tests.data.words import tokenizer


@pytest.fixture
def words(tmp_path: Path) -> GLMTokenizer:
    return tokenizer(tmp_path, task_mask=True)


def passages(folder: Path, words: GLMTokenizer, *texts: str, **keys: Any) -> Lambada:
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "test.jsonl").write_text(rows)
    options = {"data_dir": str(folder), "test_file": "test.jsonl", "seq_length": 12} | keys
    return Lambada(LanguageModelConfig(**options), "test", words)


def test_a_word_of_several_tokens(tmp_path: Path, words: GLMTokenizer) -> None:
    the, cat = words.encode("the cat")
    b, d, g = words.encode("bdg")  # one word: b ##d ##g
    made = passages(tmp_path, words, "the cat bdg")
    item, passage = made[0], made.passages[0]
    cls, mask, eos, sop = words.cls_id, words.mask_id, words.eos_id, words.sop_id
    assert (passage.text, passage.word, passage.answer) == ("the cat", "bdg", [b, d, g])
    assert item["input_ids"].tolist() == [cls, the, cat, mask, eos, sop, b, d, *[0] * 8]
    assert item["labels"].tolist() == [*[0] * 5, b, d, g, *[0] * 8]
    assert item["loss_mask"].tolist() == [*[0] * 5, 1, 1, 1, *[0] * 8]
    assert item["position_ids"].tolist() == [
        [0, 1, 2, 3, 4, 3, 3, 3, *[0] * 8],
        [0, 0, 0, 0, 0, 1, 2, 3, *[0] * 8],
    ]
    assert item["attention_mask"] == 5


def test_left_to_right(tmp_path: Path, words: GLMTokenizer) -> None:
    the, cat, b, d = words.encode("the cat bd")
    item = passages(tmp_path, words, "the cat bd", unidirectional=True, task_mask=True)[0]
    cls, mask, eos, sop = words.cls_id, words.gmask_id, words.eos_id, words.sop_id
    assert item["input_ids"].tolist()[:7] == [cls, the, mask, eos, sop, cat, b]
    assert item["labels"].tolist()[:7] == [0, 0, 0, 0, cat, b, d]
    assert item["loss_mask"].tolist() == [*[0] * 5, 1, 1, *[0] * 9]


@pytest.mark.parametrize("unidirectional", [False, True])
def test_long_passages_lose_their_beginning(
    tmp_path: Path, words: GLMTokenizer, unidirectional: bool
) -> None:
    text = "a b c d e f g h i j the cat"
    item = passages(tmp_path, words, text, seq_length=8, unidirectional=unidirectional)[0]
    kept = words.encode("h i j the")
    ids = item["input_ids"].tolist()
    assert words.mask_id in ids
    assert [i for i in ids if i in kept] == kept
    assert len(ids) == 8
    assert item["labels"][item["loss_mask"] > 0].tolist() == words.encode("cat")


def test_the_word_is_the_last_of_its_kind_with_its_marks(
    tmp_path: Path, words: GLMTokenizer
) -> None:
    made = passages(tmp_path, words, "the cat sat on the cat.").passages[0]
    assert (made.text, made.word) == ("the cat sat on the", "cat.")
    assert made.answer == words.encode("cat .")
    quoted = passages(tmp_path, words, "`` the cat ''", detokenizer="quotes").passages[0]
    assert (quoted.text, quoted.word) == ('" the cat', '"')


def test_other_files(tmp_path: Path, words: GLMTokenizer) -> None:
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"the cat\n\na b\n"))
    cfg = LanguageModelConfig(data_dir=str(tmp_path), valid_file="t.txt.gz")
    assert [(p.line, p.word) for p in Lambada(cfg, "valid", words).passages] == [
        (1, "cat"),
        (3, "b"),
    ]


def test_bad_rows_are_named(tmp_path: Path, words: GLMTokenizer) -> None:
    with pytest.raises(ValueError, match=r"test.jsonl:2: empty text"):
        passages(tmp_path, words, "the cat", " ")
    with pytest.raises(ValueError, match=r"test.jsonl:2: the last word '\\x00' has no token"):
        passages(tmp_path, words, "the cat", "the \x00")
    with pytest.raises(
        ValueError, match=r"test.jsonl:1: the last word .* longer than seq_length=8"
    ):
        passages(tmp_path, words, "the abcdef", seq_length=8)
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"the cat\n" * 9)[:-9])
    cfg = LanguageModelConfig(data_dir=str(tmp_path), test_file="cut.txt.gz")
    with pytest.raises(ValueError, match=r"cut.txt.gz is not a complete gzip file"):
        Lambada(cfg, "test", words)
