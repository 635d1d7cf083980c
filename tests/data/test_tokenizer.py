"""Tokenizers against recorded ids; layouts of command tokens; refused vocabularies."""

import json
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.data.command_tokens import END, START
from glmkd_nemo.data.tokenizer import (
    GLMTokenizer,
    build_tokenizer,
    load_tokenizer,
    train_wordpiece,
)

from .conftest import FIXTURES, SHARED


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads((FIXTURES / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def gpt2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level BPE of the 256 bytes and three merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    folder = tmp_path_factory.mktemp("gpt2")
    tokens = [*sorted(ByteLevel.alphabet()), "th", "the", "Ġthe", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    import sentencepiece

    folder = tmp_path_factory.mktemp("sp")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for t in texts[:20] for line in t.splitlines()]),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=200,
        model_type="bpe",
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def layout(tokenizer: GLMTokenizer) -> dict[str, list[Any]]:
    return {name: [token.text, token.id] for name, token in tokenizer.commands.items()}


def check_bert(vocab: Path, golden: dict[str, Any]) -> None:
    plain = build_tokenizer({"type": "bert", "path": str(vocab)})
    assert plain.vocab_size == golden["num_tokens"]
    assert layout(plain) == golden["command_tokens"]
    assert plain.gmask_id is None
    assert plain.eos_id == plain.pad_id == 0
    full = build_tokenizer(
        {"type": "bert", "path": str(vocab), "task_mask": True, "block_mask": True}
    )
    assert full.vocab_size == golden["num_tokens_task_mask_decoder_mask"]
    assert layout(full) == golden["command_tokens_task_mask_decoder_mask"]
    for (text, ids), decoded in zip(golden["encode"], golden["decode"], strict=True):
        assert plain.encode(text) == ids
        assert plain.decode(ids) == decoded


def test_bert_equals_the_recorded_ids(bert_vocab: Path, golden: dict[str, Any]) -> None:
    check_bert(bert_vocab, golden)


def test_bert_whole_vocabulary(golden: dict[str, Any]) -> None:
    vocab = SHARED / "data" / "bert-base-uncased-vocab.txt"
    if not vocab.is_file():
        pytest.skip(f"{vocab} is not on this machine")
    check_bert(vocab, golden)


def test_gpt2_layout_and_round_trip(gpt2_dir: Path) -> None:
    plain = build_tokenizer({"type": "gpt2", "path": str(gpt2_dir)})
    size = 260
    assert plain.eos_id == plain.pad_id == size - 1
    added = ["sop", "eop", "ENC", "MASK", "sep", "unk"]
    assert [plain.command_token(name) for name in added] == list(range(size, size + 6))
    full = build_tokenizer(
        {"type": "gpt2", "path": str(gpt2_dir), "task_mask": True, "block_mask": True}
    )
    assert (full.gmask_id, full.smask_id, full.dblock_id) == (size + 6, size + 7, size + 8)
    assert full.vocab_size == size + 9
    text = "naïve — the\n\n  their's 12"
    assert full.decode(full.encode(text)) == text
    assert full.encode("the the") == [257, 258]
    # Masks swallow the white space before them.
    assert full.encode("the [gMASK] the") == [257, full.gmask_id, 258]
    assert full.is_word_start(258)
    assert not full.is_word_start(257)


def test_gpt2_equals_transformers() -> None:
    folder = SHARED / "data" / "gpt2"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    from transformers import GPT2TokenizerFast

    theirs = GPT2TokenizerFast(
        str(folder / "gpt2-vocab.json"), str(folder / "gpt2-merges.txt"), add_prefix_space=False
    )
    ours = build_tokenizer({"type": "gpt2", "path": str(folder)})
    assert ours.sop_id == 50257
    assert ours.mask_id == 50260
    for text in (
        "The quick brown fox.",
        " naïve café — “quoted”\n\n  1,000's",
        "def f(x):\n\treturn x",
    ):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == text


def test_roberta_layout(tmp_path: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    (tmp_path / "roberta-vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (tmp_path / "roberta-merges.txt").write_text("#version: 0.2\n")
    ours = build_tokenizer({"type": "gpt2", "path": str(tmp_path)})
    ids = [ours.cls_id, ours.pad_id, ours.sep_id, ours.unk_id, ours.mask_id, ours.sop_id]
    assert ids == [0, 2, 2, 3, 260, 261]


@pytest.mark.parametrize(
    ("fix", "task_ids"), [(False, {"gMASK": 7, "sMASK": 8}), (True, {"sMASK": 8, "gMASK": 9})]
)
def test_sentencepiece_layouts(
    sentencepiece_file: Path, fix: bool, task_ids: dict[str, int]
) -> None:
    ours = build_tokenizer(
        {
            "type": "sentencepiece",
            "path": str(sentencepiece_file.parent),
            "task_mask": True,
            "fix_command_token": fix,
        }
    )
    expected = {"pad": 0, "eos": 0, "sep": 1, "ENC": 2, "MASK": 3, "unk": 4, "sop": 6, "eop": 7}
    expected |= task_ids
    assert {name: token.id - 200 for name, token in ours.commands.items()} == expected
    assert ours.vocab_size == 200 + max(expected.values()) + 1
    ids = ours.encode("the value [MASK] of")
    assert ours.mask_id in ids
    assert ours.decode(ids) == "the value[MASK]of"


def test_huggingface_folder(tmp_path: Path, vocab_dir: Path) -> None:
    from tokenizers.implementations import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    engine = BertWordPieceTokenizer(str(vocab_dir / "vocab.txt"))
    PreTrainedTokenizerFast(
        tokenizer_object=engine._tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        sep_token="[SEP]",
    ).save_pretrained(str(tmp_path))
    theirs = build_tokenizer({"type": "huggingface", "path": str(tmp_path), "task_mask": True})
    ours = build_tokenizer({"type": "bert", "path": str(vocab_dir), "task_mask": True})
    text = "The value of [MASK] is an object."
    assert theirs.encode(text) == ours.encode(text)
    assert layout(theirs) == layout(ours)
    assert theirs.is_word_start(theirs.encode("object")[0])


def test_trained_vocabulary_is_the_same_every_time(tmp_path: Path, texts: list[str]) -> None:
    made = [
        (train_wordpiece(texts[:20], 500, tmp_path / str(i)) / "vocab.txt").read_text()
        for i in range(4)
    ]
    assert len(set(made)) == 1
    ours = build_tokenizer({"type": "bert", "path": str(tmp_path / "0")})
    assert ours.vocab_size <= 502
    assert ours.unk_id not in ours.encode("the value of an object")


def test_save_and_load(tmp_path: Path, tokenizer: GLMTokenizer, texts: list[str]) -> None:
    loaded = load_tokenizer(tokenizer.save(tmp_path / "saved"))
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.encode(texts[0]) == tokenizer.encode(texts[0])
    with pytest.raises(FileNotFoundError, match=r"glm_tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_fingerprints(tmp_path: Path, vocab_dir: Path, tokenizer: GLMTokenizer) -> None:
    plain = build_tokenizer({"type": "bert", "path": str(vocab_dir / "vocab.txt")})
    assert plain.text_fingerprint() == tokenizer.text_fingerprint()
    assert plain.fingerprint() != tokenizer.fingerprint()
    changed = (vocab_dir / "vocab.txt").read_text().splitlines()
    changed[-1], changed[-2] = changed[-2], changed[-1]
    (tmp_path / "vocab.txt").write_text("\n".join(changed) + "\n")
    other = build_tokenizer({"type": "bert", "path": str(tmp_path)})
    assert other.text_fingerprint() != plain.text_fingerprint()


def test_command_tokens_in_text_and_sentence_ends(tokenizer: GLMTokenizer) -> None:
    text = f"[CLS] the {START} object. {END} [sMASK]"
    ids = tokenizer.encode(text)
    command = [i for i in ids if i in {t.id for t in tokenizer.commands.values()}]
    assert command == [tokenizer.cls_id, tokenizer.sop_id, tokenizer.eop_id, tokenizer.smask_id]
    assert tokenizer.encode(" \n ") == []
    assert [tokenizer.is_sentence_end(i) for i in tokenizer.encode("the .")] == [False, True]
    assert tokenizer.sentence_ends.sum() < 20
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])


def test_missing_command_tokens_name_their_option(vocab_dir: Path) -> None:
    plain = build_tokenizer({"type": "bert", "path": str(vocab_dir)})
    for name, option in (("gMASK", "task_mask"), ("dBLOCK", "block_mask"), ("sop3", "sentinels")):
        with pytest.raises(ValueError, match=f"tokenizer.{option}"):
            plain.command_token(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the\na\n", r"\[PAD\], \[UNK\]"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "'a' occurs twice"),
    ],
)
def test_wrong_wordpiece_file(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "vocab.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        build_tokenizer({"type": "bert", "path": str(file)})
    assert str(file) in str(caught.value)


def test_missing_vocabularies(tmp_path: Path, gpt2_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt does not exist"):
        build_tokenizer({"type": "bert", "path": str(tmp_path / "nothing.txt")})
    with pytest.raises(FileNotFoundError, match=r"no vocab\.txt in this folder"):
        build_tokenizer({"type": "bert", "path": str(gpt2_dir)})
    with pytest.raises(ValueError, match=r"tokenizer\.path is not set"):
        build_tokenizer({"type": "bert"})
    (tmp_path / "vocab.json").write_text((gpt2_dir / "vocab.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"merges\.txt must lie beside"):
        build_tokenizer({"type": "gpt2", "path": str(tmp_path)})
    (tmp_path / "merges.txt").write_text("q zebra\n")
    with pytest.raises(ValueError, match=r"merges\.txt:1"):
        build_tokenizer({"type": "gpt2", "path": str(tmp_path)})
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        build_tokenizer({"type": "sentencepiece", "path": str(tmp_path)})
    with pytest.raises(ValueError, match="no Hugging Face tokenizer"):
        build_tokenizer({"type": "huggingface", "path": str(tmp_path / "absent")})
    with pytest.raises(ValueError, match="not one of bert, gpt2"):
        build_tokenizer({"type": "wordpeice", "path": str(tmp_path)})
    with pytest.raises(ValueError, match="task_msak"):
        build_tokenizer({"type": "bert", "task_msak": True})
