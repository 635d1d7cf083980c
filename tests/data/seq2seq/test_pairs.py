"""Pairs of texts: arrays as the reference lays them out, file formats, bad rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.data.seq2seq import Pairs, Seq2SeqConfig
from glmkd_nemo.data.seq2seq.readers import XSUM_SPLITS
from glmkd_nemo.data.tokenizer import GLMTokenizer
from tests.data.words import tokenizer


@pytest.fixture
def words(tmp_path: Path) -> GLMTokenizer:
    return tokenizer(tmp_path, task_mask=True)


def config(folder: Path, name: str = "cnn_dm", **keys: Any) -> Seq2SeqConfig:
    return Seq2SeqConfig(name, str(folder), **{"max_src_length": 9, "max_tgt_length": 5} | keys)


def write(folder: Path, source: str, target: str, split: str = "val") -> None:
    (folder / f"{split}.source").write_text(source, encoding="utf-8")
    (folder / f"{split}.target").write_text(target, encoding="utf-8")


def test_arrays_of_a_summary(tmp_path: Path, words: GLMTokenizer) -> None:
    write(tmp_path, "the cat\na b c d e f\n", "cat sat\na b c d e f\n", "train")
    made = Pairs(config(tmp_path), "train", words)
    content, colon, the, cat, sat = words.encode("content: the cat sat")
    a, b, c, d, e = words.encode("a b c d e")
    cls, mask, sop, eop = words.cls_id, words.mask_id, words.sop_id, words.eop_id
    item = made[0]
    rest = [0, 0]  # 9 + 5, rounded up
    assert item["input_ids"].tolist() == [
        *(cls, mask, content, colon, the, cat, 0, 0, 0),
        *(sop, cat, sat, eop, 0),
        *rest,
    ]
    assert item["labels"].tolist() == [*[0] * 9, cat, sat, eop, 0, 0, *rest]
    assert item["loss_mask"].tolist() == [*[0] * 9, 1, 1, 1, 0, 0, *rest]
    assert item["position_ids"].tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 1, 1, 1, *rest],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, *rest],
    ]
    assert item["attention_mask"] == 9
    assert made.prompt(0) == item["input_ids"].tolist()[:9]
    long = made[1]  # both texts are cut; the target then has no end token
    assert long["input_ids"].tolist()[:9] == [cls, mask, content, colon, a, b, c, d, e]
    assert long["labels"].tolist()[9:14] == [a, b, c, d, e]
    assert long["loss_mask"].tolist()[9:14] == [1, 1, 1, 1, 1]


def test_masks(tmp_path: Path, words: GLMTokenizer) -> None:
    write(tmp_path, "the [MASK] cat\n", "cat\n")
    made = Pairs(config(tmp_path, task_mask=True), "valid", words)
    the, cat = words.encode("the cat")
    assert made.prompt(0)[1] == words.smask_id
    assert made.prompt(0)[4:7] == [the, words.unk_id, cat]  # a mask in the text is none of ours


def squad(context: str, *qas: tuple[str, list[str]]) -> list[Any]:
    rows = [{"question": q, "answers": [{"text": a} for a in answers]} for q, answers in qas]
    return [{"paragraphs": [{"context": context, "qas": rows}]}]


def test_arrays_of_a_question(tmp_path: Path, words: GLMTokenizer) -> None:
    rows = squad("the cat sat. ", ("who sat?", ["cat", "cat", "the cat"]))
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    cfg = config(tmp_path, "squad_qg", max_src_length=13)
    made = Pairs(cfg, "valid", words)
    assert [(p.target, p.answer) for p in made.pairs] == [
        ("who sat?", "cat"),
        ("who sat?", "the cat"),
    ]
    cls, mask, eop = words.cls_id, words.mask_id, words.eop_id
    source = words.encode("the cat sat. question:")
    answer = words.encode("answer: cat")
    assert made.prompt(0) == [cls, *source, mask, *answer, 0, 0]
    item = made[0]
    assert item["labels"].tolist()[13:17] == [*words.encode("who sat?"), eop]
    assert item["position_ids"][0].tolist()[13:18] == [7] * 5


def test_long_paragraphs_keep_what_is_around_the_answer(
    tmp_path: Path, words: GLMTokenizer
) -> None:
    rows = {"data": squad("a b c d e f g h i j the cat sat", ("who?", ["h i"]))}
    (tmp_path / "test.json").write_text(json.dumps(rows))
    made = Pairs(config(tmp_path, "squad_qg", max_src_length=12), "test", words)
    kept, answer = words.encode("e f g h i j"), words.encode("answer: h i")
    assert made.prompt(0) == [words.cls_id, *kept, words.mask_id, *answer]


def test_xsum_as_published(tmp_path: Path, words: GLMTokenizer) -> None:
    (tmp_path / XSUM_SPLITS).write_text(json.dumps({"train": [], "validation": ["7"], "test": []}))
    parts = ["[SN]URL[SN]", "x", "[SN]FIRST-SENTENCE[SN]", "the cat sat.", "[SN]RESTBODY[SN]"]
    (tmp_path / "7.summary").write_text("\n".join([*parts, "a b", "", "c d."]))
    (pair,) = Pairs(config(tmp_path, "xsum"), "valid", words).pairs
    assert (pair.source, pair.target) == ("a b c d.", "the cat sat.")
    with pytest.raises(ValueError, match=r"0 unusable rows"):
        Pairs(config(tmp_path, "xsum"), "test", words)
    (tmp_path / "7.summary").write_text("\n".join(parts))
    with pytest.raises(ValueError, match=r"7.summary:5: ends without text under \[SN\]RESTBODY"):
        Pairs(config(tmp_path, "xsum"), "valid", words)
    (tmp_path / "7.summary").unlink()
    with pytest.raises(ValueError, match=r"7.summary does not exist"):
        Pairs(config(tmp_path, "xsum"), "valid", words)


def test_xsum_as_lines(tmp_path: Path, words: GLMTokenizer) -> None:
    write(tmp_path, "a b\n", "c\n", "test")
    assert len(Pairs(config(tmp_path, "xsum"), "test", words)) == 1


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a\nb\nc\n", "a\nb\n", r"val.target:2: ends here, but .*val.source has 3 lines"),
        ("a\n\nc\n", "a\nb\nc\n", r"val.source:2: empty line"),
        ("a\nb\n", "a\n \n", r"val.target:2: empty line"),
        ("", "a\n", r"val.source is empty"),
        ("a\n", "\n", r"val.target is empty"),
    ],
)
def test_bad_lines(
    tmp_path: Path, words: GLMTokenizer, source: str, target: str, message: str
) -> None:
    write(tmp_path, source, target)
    with pytest.raises(ValueError, match=message):
        Pairs(config(tmp_path), "valid", words)


def test_bad_files(tmp_path: Path, words: GLMTokenizer) -> None:
    write(tmp_path, "a\nb\n", "a\nb\n")
    (tmp_path / "val.target").write_bytes(b"a\n\xfe\n")
    with pytest.raises(ValueError, match=r"val.target:2: not UTF-8 \(byte 0xfe\)"):
        Pairs(config(tmp_path), "valid", words)
    with pytest.raises(FileNotFoundError, match=r"train.source does not exist"):
        Pairs(config(tmp_path), "train", words)
    with pytest.raises(FileNotFoundError, match=r"gone is not a folder"):
        Pairs(config(tmp_path / "gone"), "train", words)
    with pytest.raises(ValueError, match=r"no task 'xsun'.*did you mean xsum"):
        Pairs(config(tmp_path, "xsun"), "train", words)


def test_some_bad_rows_may_be_left_out(
    tmp_path: Path, words: GLMTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "a\n\nc\n", "a\nb\nc\n")
    made = Pairs(config(tmp_path, max_bad_rows=1), "valid", words)
    assert [p.source for p in made.pairs] == ["a", "c"]
    assert "val.source:2: empty line" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('[{"paragraphs":\n', r"dev.json:2: not JSON"),
        ('{"rows": []}', r"dev.json: neither a list of articles"),
        ('[{"paragraphs": [{"qas": []}]}]', r"article 1, paragraphs 1 has no 'context'"),
        (
            json.dumps([{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]),
            r"article 1, paragraphs 1, qas 1 has no 'question' with 'answers'",
        ),
        (json.dumps(squad("a b", ("who?", ["c"]))), r"qas 1: empty, or 'c' is not in its para"),
    ],
)
def test_bad_questions(tmp_path: Path, words: GLMTokenizer, data: str, message: str) -> None:
    (tmp_path / "dev.json").write_text(data)
    with pytest.raises(ValueError, match=message):
        Pairs(config(tmp_path, "squad_qg"), "valid", words)
