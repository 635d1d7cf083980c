"""Windows: their arrays, and that each token is predicted once."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmkd_nemo.data.language_model import PerplexityConfig, Windows
from glmkd_nemo.data.tokenizer import GLMTokenizer
from tests.data.words import tokenizer

ROWS = ["a b c d e f g h i j a b c", "d", "cat sat", "on the mat on the mat"]


@pytest.fixture
def words(tmp_path: Path) -> GLMTokenizer:
    return tokenizer(tmp_path, task_mask=True)


def windows(folder: Path, words: GLMTokenizer, rows: list[str] = ROWS, **keys: Any) -> Windows:
    (folder / "text.txt").write_text("\n".join(rows) + "\n")
    options = {"test_file": "text.txt", "document_by": "line", "seq_length": 8, "stride": 3} | keys
    return Windows(PerplexityConfig(data_dir=str(folder), **options), "test", words)


def counted(item: dict[str, Any]) -> list[int]:
    """Ids that an item predicts."""
    return item["labels"][item["loss_mask"] > 0].tolist()


@pytest.mark.parametrize("unidirectional", [False, True])
@pytest.mark.parametrize("stride", [1, 3, 6, 7])
def test_each_token_is_predicted_once_and_in_order(
    tmp_path: Path, words: GLMTokenizer, stride: int, unidirectional: bool
) -> None:
    made = windows(tmp_path, words, stride=stride, unidirectional=unidirectional)
    expected = [i for row in ROWS for i in words.encode(row)[1:]]  # the first token is given
    assert [i for item in made for i in counted(item)] == expected
    assert made.predicted == len(expected)


def test_arrays_in_both_directions(tmp_path: Path, words: GLMTokenizer) -> None:
    cls, mask, sop = words.cls_id, words.mask_id, words.sop_id
    a, b, c, d, e, f, g, h, i, j = words.encode("a b c d e f g h i j")
    first, second = windows(tmp_path, words, ROWS[:1])[0], windows(tmp_path, words, ROWS[:1])[1]
    assert first["input_ids"].tolist() == [cls, a, mask, sop, b, c, d, e, f, *[0] * 7]
    assert first["labels"].tolist() == [0, 0, 0, b, c, d, e, f, g, *[0] * 7]
    assert first["loss_mask"].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, *[0] * 7]
    assert first["position_ids"].tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 2, *[0] * 7],
        [0, 0, 0, 1, 2, 3, 4, 5, 6, *[0] * 7],
    ]
    assert first["attention_mask"] == 3
    assert second["input_ids"].tolist() == [cls, d, e, f, g, mask, sop, h, i, *[0] * 7]
    assert second["labels"].tolist() == [*[0] * 6, h, i, j, *[0] * 7]
    assert second["position_ids"].tolist() == [
        [0, 1, 2, 3, 4, 5, 5, 5, 5, *[0] * 7],
        [0, 0, 0, 0, 0, 0, 1, 2, 3, *[0] * 7],
    ]
    assert second["attention_mask"] == 6
    left = windows(tmp_path, words, ROWS[:1], unidirectional=True)[1]
    assert left["input_ids"].tolist() == [cls, d, mask, sop, e, f, g, h, i, *[0] * 7]
    assert left["loss_mask"].tolist() == [*[0] * 6, 1, 1, 1, *[0] * 7]
    assert left["attention_mask"] == 3


def test_options(tmp_path: Path, words: GLMTokenizer) -> None:
    item = windows(tmp_path, words, task_mask=True, block_position_encoding=False)[0]
    assert item["input_ids"][2] == words.gmask_id
    assert item["position_ids"][1].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, *[0] * 7]


def test_documents_and_their_words(tmp_path: Path, words: GLMTokenizer) -> None:
    by_line = windows(tmp_path, words)
    assert (by_line.documents, by_line.words, by_line.tokens) == (3, 21, 21)  # not the lone "d"
    whole = windows(tmp_path, words, ["a @-@ b c", "", "d e"], document_by="file")
    # "c\n\nd" is one word between single spaces; "a-b" are three tokens
    assert (whole.documents, whole.words, whole.tokens) == (1, 5, 6)
    blocks = windows(tmp_path, words, ["a b", "c", "", "", "d e"], document_by="blank_line")
    assert (blocks.documents, blocks.tokens) == (2, 5)


def test_seen_tokens_do_not_come_after_the_blank(tmp_path: Path, words: GLMTokenizer) -> None:
    for item in windows(tmp_path, words):
        sep = int(item["attention_mask"])
        assert not item["loss_mask"][:sep].any()
        assert Counter(item["input_ids"][sep:])[words.sop_id] == 1
        assert np.all(np.diff(item["position_ids"][0, :sep]) == 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "text.jsonl is empty"),
        (b'{"text": "a b"}\n{"body": "c"}\n', "text.jsonl:2: no key 'text'"),
        (b'{"text": "a b"}\n{"text": "\xff"}\n', "text.jsonl:2: not UTF-8 (byte 0xff)"),
        (b'{"text": "a b"}\n{"text": 3}\n', "text.jsonl:2: 'text' is int"),
        (b'{"text": "a b"}\n{"text":\n', "text.jsonl:2: not JSON"),
        (b'{"text": "a"}\n', "text.jsonl:1: no document of at least two tokens"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, words: GLMTokenizer, data: bytes, message: str) -> None:
    (tmp_path / "text.jsonl").write_bytes(data)
    cfg = PerplexityConfig(data_dir=str(tmp_path), valid_file="text.jsonl")
    with pytest.raises(ValueError) as caught:
        Windows(cfg, "valid", words)
    assert message in str(caught.value)


def test_bad_configurations_are_named(tmp_path: Path, words: GLMTokenizer) -> None:
    with pytest.raises(ValueError, match=r"task.stride=8 is not between 1 and .* 7"):
        PerplexityConfig(seq_length=8, stride=8)
    with pytest.raises(ValueError, match=r"task.detokenizer='wikitex' .* did you mean wikitext"):
        PerplexityConfig(detokenizer="wikitex")
    with pytest.raises(ValueError, match=r"no file for train: give task.train_file"):
        Windows(PerplexityConfig(data_dir="x"), "train", words)
    with pytest.raises(FileNotFoundError, match=r"gone.txt does not exist"):
        Windows(PerplexityConfig(data_dir=str(tmp_path), test_file="gone.txt"), "test", words)
