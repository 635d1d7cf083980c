"""Blank filling: arrays, which words are blanked, and bad rows."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from glmkd_nemo.data.seq2seq import BlankFillingConfig, Blanks
from glmkd_nemo.data.seq2seq.blanks import MASK, blank, fill
from glmkd_nemo.data.tokenizer import GLMTokenizer
from tests.data.words import tokenizer


@pytest.fixture
def words(tmp_path: Path) -> GLMTokenizer:
    return tokenizer(tmp_path)


def made(folder: Path, words: GLMTokenizer, split: str, **keys: Any) -> Blanks:
    options = {"max_src_length": 8, "mask_ratio": 0.9} | keys
    return Blanks(BlankFillingConfig(data_dir=str(folder), **options), split, words)


def write_test(folder: Path, source: str, target: str) -> None:
    (folder / "blank").mkdir(exist_ok=True)
    (folder / "blank" / "test.maskratio0.9.blank").write_text(source)
    (folder / "test.txt").write_text(target)


def test_arrays(tmp_path: Path, words: GLMTokenizer) -> None:
    write_test(tmp_path, "the <blank> on <blank>\n", "the cat sat on bd\n")
    dataset = made(tmp_path, words, "test")
    the, cat, sat, on, b, d = words.encode("the cat sat on bd")
    mask, sop, eop = words.mask_id, words.sop_id, words.eop_id
    item = dataset[0]
    rest = [0, 0]  # 8 + 7, rounded up
    assert item["input_ids"].tolist() == [
        *(the, mask, on, mask, 0, 0, 0, 0),
        *(sop, cat, sat),
        *(sop, b, d),
        *rest,
    ]
    assert item["labels"].tolist() == [*[0] * 8, cat, sat, eop, b, d, eop, *rest]
    assert item["loss_mask"].tolist() == [*[0] * 8, 1, 1, 1, 1, 1, 1, *rest]
    assert item["position_ids"].tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 1, 1, 1, 3, 3, 3, *rest],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 1, 2, 3, *rest],
    ]
    assert item["attention_mask"] == 8
    assert dataset.prompt(0) == item["input_ids"].tolist()[:8]


def test_blanks_cut_off_with_the_end_have_no_answer(tmp_path: Path, words: GLMTokenizer) -> None:
    write_test(tmp_path, "<blank> b c d e f g h <blank>\n", "a b c d e f g h i\n")
    item = made(tmp_path, words, "test")[0]
    assert item["labels"][item["loss_mask"] > 0].tolist() == [*words.encode("a"), words.eop_id]


def test_drawn_blanks_are_always_the_same(tmp_path: Path, words: GLMTokenizer) -> None:
    (tmp_path / "train.txt").write_text("a b c d e f g h i j\n" * 30)
    pairs = made(tmp_path, words, "train", mask_ratio=0.3).pairs
    assert pairs == made(tmp_path, words, "train", mask_ratio=0.3).pairs
    assert pairs != made(tmp_path, words, "train", mask_ratio=0.3, seed=2).pairs
    assert len({pair.source for pair in pairs}) > 10
    for pair in pairs:
        fillings = fill(pair.source.split(), pair.target.split())
        assert fillings is not None
        assert sum(map(len, fillings)) == 3
        assert f"{MASK} {MASK}" not in pair.source


def test_even_short_texts_get_a_blank() -> None:
    assert blank(["a"], 0.1, Random(1)) == [MASK]


@pytest.mark.parametrize(
    ("source", "target", "fillings"),
    [
        ("a [MASK] c", "a b b c", [["b", "b"]]),
        ("[MASK] a [MASK]", "a a a", [["a"], ["a"]]),
        ("[MASK] [MASK]", "a b c", [["a"], ["b", "c"]]),
        ("a [MASK]", "a", None),
        ("a [MASK] c", "a c", None),
        ("a [MASK] c", "b b c", None),
        ("[MASK] c", "a c d", None),
    ],
)
def test_fillings(source: str, target: str, fillings: list[list[str]] | None) -> None:
    assert fill(source.split(), target.split()) == fillings


def test_bad_rows(tmp_path: Path, words: GLMTokenizer) -> None:
    write_test(tmp_path, "a <blank>\na\n", "a b\na b\n")
    with pytest.raises(ValueError, match=r"ratio0.9.blank:2: is not line 2 of test.txt with"):
        made(tmp_path, words, "test")
    write_test(tmp_path, "a <blank>\n", "a b\na b\n")
    with pytest.raises(ValueError, match=r"ratio0.9.blank:1: ends here, but .*test.txt has 2"):
        made(tmp_path, words, "test")
    (tmp_path / "valid.txt").write_text("a b\n\nc <blank>\n")
    with pytest.raises(ValueError, match=r"(?s)valid.txt:2: empty.*valid.txt:3: has a blank of"):
        made(tmp_path, words, "valid")
    with pytest.raises(ValueError, match=r"task.mask_ratio=1.0 is not between 0 and 1"):
        made(tmp_path, words, "valid", mask_ratio=1.0)
