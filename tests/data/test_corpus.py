"""The dataset: determinism, splits, weights, one fixed shape; refused corpora."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmkd_nemo.data.config import DataConfig
from glmkd_nemo.data.corpus import build_dataset, tokenise_once, window_size
from glmkd_nemo.data.indexed import IndexedCorpus
from glmkd_nemo.data.preprocess import preprocess
from glmkd_nemo.data.tokenizer import GLMTokenizer, build_tokenizer, train_wordpiece
from glmkd_nemo.data.windows import WindowSource, parse_split, split_documents

from .conftest import write_jsonl

SEQ = 96
MIX = {
    "bert_prob": 0.5,
    "gap_sentence_prob": 0.3,
    "gpt_min_ratio": 0.25,
    "block_mask_prob": 0.1,
    "short_seq_prob": 0.1,
    "task_mask": True,
}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def dataset(prefix: Path, tokenizer: GLMTokenizer, part: str = "train", **more: Any) -> Any:
    arguments = {"num_samples": 200, "seed": 1} | {
        k: more.pop(k) for k in ("num_samples", "seed") if k in more
    }
    cfg = {"prefixes": [str(prefix)], "split": "80,10,10", "block_infilling": MIX} | more
    return build_dataset(cfg, tokenizer, SEQ, part, **arguments)


def test_items_have_one_shape(prefix: Path, tokenizer: GLMTokenizer) -> None:
    items = dataset(prefix, tokenizer)
    assert len(items) == 200
    fill = []
    for i in range(200):
        item = items[i]
        shapes = {key: value.shape for key, value in item.items()}
        assert shapes == {
            "input_ids": (SEQ,),
            "labels": (SEQ,),
            "loss_mask": (SEQ,),
            "position_ids": (2, SEQ),
            "attention_mask": (),
        }
        kinds = {key: str(value.dtype) for key, value in item.items()}
        assert kinds.pop("loss_mask") == "float32"
        assert set(kinds.values()) == {"int64"}
        assert 0 < item["attention_mask"] < SEQ
        assert item["loss_mask"].sum() > 0
        assert item["input_ids"].max() < tokenizer.vocab_size
        assert item["position_ids"].max() < SEQ
        assert item["input_ids"][0] == tokenizer.cls_id
        fill.append((item["labels"] > 0).mean())
    assert np.mean(fill) > 0.65
    with pytest.raises(IndexError):
        items[200]


def test_item_depends_on_seed_split_and_index_only(prefix: Path, tokenizer: GLMTokenizer) -> None:
    one, again = dataset(prefix, tokenizer), dataset(prefix, tokenizer, num_samples=10**9)
    for i in (0, 3, 199, 3):
        assert equal(one[i], again[i])
    assert not equal(one[0], one[1])
    assert not equal(one[0], dataset(prefix, tokenizer, seed=2)[0])
    assert not equal(one[0], dataset(prefix, tokenizer, "valid")[0])


def test_splits_share_no_document() -> None:
    shares = parse_split("80,10,10")
    parts = [split_documents(1000, shares, s) for s in ("train", "valid", "test")]
    assert [len(p) for p in parts] == [800, 100, 100]
    assert sorted(np.concatenate(parts).tolist()) == list(range(1000))
    # Spread over the file, not its end.
    assert 350 < np.mean(parts[1]) < 650
    assert split_documents(3, parse_split("1"), "train").tolist() == [0, 1, 2]
    assert parse_split("949,50,1") == pytest.approx((0.949, 0.05, 0.001))
    assert parse_split("3/1") == pytest.approx((0.75, 0.25, 0))
    for bad in ("a,b", "1,2,3,4", "-1,2", "0,0", "nan"):
        with pytest.raises(ValueError, match=r"data\.split"):
            parse_split(bad)


def test_held_out_text_is_not_trained_on(
    tmp_path: Path, tokenizer: GLMTokenizer, texts: list[str]
) -> None:
    """Each document is one word over and over: windows tell where they come from."""
    words = [tokenizer.token(i) for i in range(300, 380)]
    words = [w for w in words if w.isalpha()][:40]
    source = write_jsonl(tmp_path / "w.jsonl", [f"{w} " * 60 for w in words])
    preprocess([source], tmp_path / "w", tokenizer, progress=False)
    seen = {}
    for split in ("train", "valid", "test"):
        items = dataset(tmp_path / "w", tokenizer, split, block_infilling={"bert_prob": 1.0})
        ids = np.concatenate([items[i]["labels"] for i in range(200)])
        seen[split] = {tokenizer.token(i) for i in np.unique(ids)} & set(words)
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == len(words)


def test_weights_of_corpora(tmp_path: Path, tokenizer: GLMTokenizer) -> None:
    words = ["the", "of"]
    ids = [tokenizer.encode(word)[0] for word in words]
    prefixes = []
    for word, copies in zip(words, (30, 10), strict=True):
        source = write_jsonl(tmp_path / f"{word}.jsonl", [f"{word} " * 100] * copies)
        preprocess([source], tmp_path / word, tokenizer, progress=False)
        prefixes.append(str(tmp_path / word))

    def share(weights: list[float] | None) -> float:
        cfg = {"prefixes": prefixes, "weights": weights, "split": "1"}
        items = build_dataset(cfg, tokenizer, SEQ, "train", 400, seed=3)
        return float(np.mean([ids[0] in items[i]["labels"] for i in range(400)]))

    assert share([1.0, 4.0]) == pytest.approx(0.2, abs=0.07)
    assert share(None) == pytest.approx(0.75, abs=0.07)
    assert share([0.0, 1.0]) == 0.0
    for weights, message in (([1.0], "1 entries for 2"), ([-1.0, 2.0], "positive sum")):
        with pytest.raises(ValueError, match=message):
            share(weights)


def test_separate_validation_corpus(prefix: Path, tokenizer: GLMTokenizer) -> None:
    """Its documents are all used, and the share of `split` goes to training."""
    more = {"valid_prefixes": [str(prefix)]}
    valid = dataset(prefix, tokenizer, "valid", **more)
    whole = dataset(prefix, tokenizer, split="1,0,0")
    train = dataset(prefix, tokenizer, "train", **more)
    assert valid.tokens == whole.tokens > train.tokens > dataset(prefix, tokenizer).tokens
    assert not equal(valid[0], whole[0]), "equal text and seed, but other draws"


@pytest.mark.parametrize("across", [True, False])
def test_windows(prefix: Path, tokenizer: GLMTokenizer, across: bool) -> None:
    from random import Random

    corpus = IndexedCorpus(prefix, tokenizer)
    documents = np.arange(len(corpus.lengths))
    source = WindowSource(corpus, documents, tokenizer, 300, 0.0, across)
    whole = [corpus.read(int(i), 0, int(corpus.lengths[i])).tolist() for i in documents]
    starts_with_sentence = several = 0
    for seed in range(50):
        window = source.draw(Random(seed))
        assert len(window) <= 300
        assert window[0] == tokenizer.cls_id
        several += (window == tokenizer.cls_id).sum() > 1
        first = window[1:].tolist()
        if tokenizer.eos_id in first:
            first = first[: first.index(tokenizer.eos_id)]
        place = next(
            (d, i)
            for d, text in enumerate(whole)
            for i in range(len(text))
            if text[i : i + len(first)] == first
        )
        text, i = whole[place[0]], place[1]
        starts_with_sentence += i == 0 or bool(tokenizer.sentence_ends[text[i - 1]])
    assert starts_with_sentence > 35
    assert bool(several) is across


def test_window_size_leaves_room_for_blocks() -> None:
    for seq in (32, 128, 512, 1024):
        cfg = DataConfig()
        cfg.block_infilling.bert_prob = 1.0
        size = window_size(cfg, seq)
        assert 0.6 * seq < size < seq
    cfg.block_infilling.masked_lm = True
    assert window_size(cfg, 128) == 128
    with pytest.raises(ValueError, match="too small for blank infilling"):
        window_size(DataConfig(), 16)


def test_no_draw_that_fits(prefix: Path, tokenizer: GLMTokenizer) -> None:
    items = dataset(prefix, tokenizer, window=SEQ * 4, block_infilling={"bert_prob": 1.0})
    with pytest.raises(RuntimeError, match=r"lower data\.window"):
        [items[i] for i in range(50)]


def test_raw_text_is_tokenised_once(
    tmp_path: Path, prefix: Path, tokenizer: GLMTokenizer, texts: list[str]
) -> None:
    source = write_jsonl(tmp_path / "texts.jsonl", texts)
    cache = tmp_path / "cache"
    made = dataset(source, tokenizer, cache_dir=str(cache))
    assert equal(made[5], dataset(prefix, tokenizer)[5])
    first = {f: f.stat().st_mtime_ns for f in cache.glob("*.bin")}
    assert len(first) == 1
    dataset(source, tokenizer, cache_dir=str(cache))
    assert {f: f.stat().st_mtime_ns for f in cache.glob("*.bin")} == first
    write_jsonl(source, texts[:30])
    tokenise_once(source, tokenizer, cache)
    assert len(list(cache.glob("*.bin"))) == 2
    with pytest.raises(ValueError, match=r"set data\.cache_dir"):
        dataset(source, tokenizer)
    with pytest.raises(ValueError, match="cannot write"):
        tokenise_once(source, tokenizer, source / "below")


@pytest.fixture
def copied(tmp_path: Path, prefix: Path) -> Path:
    for suffix in (".bin", ".idx", ".json"):
        shutil.copy(f"{prefix}{suffix}", tmp_path / f"c{suffix}")
    return tmp_path / "c"


def refusal(copied: Path, tokenizer: GLMTokenizer, kind: type[Exception] = ValueError) -> str:
    """The message with which the corpus is refused; it names the corpus."""
    with pytest.raises(kind) as caught:
        dataset(copied, tokenizer)
    assert str(copied) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_damaged_corpus(copied: Path, tokenizer: GLMTokenizer, suffix: str) -> None:
    file = Path(f"{copied}{suffix}")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert "truncated" in refusal(copied, tokenizer)
    file.write_bytes(b"")
    assert "empty" in refusal(copied, tokenizer)
    file.unlink()
    assert "does not exist" in refusal(copied, tokenizer, FileNotFoundError)


def test_not_an_index(copied: Path, tokenizer: GLMTokenizer) -> None:
    Path(f"{copied}.idx").write_bytes(b"something else entirely, but long enough for a header")
    assert "not a Megatron index" in refusal(copied, tokenizer)


def test_other_vocabulary(copied: Path, tmp_path: Path, texts: list[str]) -> None:
    vocab = train_wordpiece(texts[:9], 500, tmp_path / "v")
    other = build_tokenizer(
        {"type": "bert", "path": str(vocab), "task_mask": True, "block_mask": True}
    )
    assert "made with another vocabulary" in refusal(copied, other)
    Path(f"{copied}.json").write_text("{")
    assert "sidecar" in refusal(copied, other)


def test_refused_settings(prefix: Path, tokenizer: GLMTokenizer) -> None:
    with pytest.raises(ValueError, match="not one of train, valid, test"):
        dataset(prefix, tokenizer, "dev")
    with pytest.raises(ValueError, match="leaves no valid document"):
        dataset(prefix, tokenizer, "valid", split="1,0,0")
    with pytest.raises(ValueError, match=r"data\.prefixes is empty"):
        dataset(prefix, tokenizer, prefixes=[])
    with pytest.raises(ValueError, match="prefxes"):
        dataset(prefix, tokenizer, prefxes=[])


def test_config_files_fit_the_dataclasses() -> None:
    from omegaconf import DictConfig, OmegaConf

    from glmkd_nemo.data.config import BlockInfillingConfig, TokenizerConfig, as_config

    conf = Path(__file__).resolve().parents[2] / "conf"
    for file in sorted((conf / "tokenizer").glob("*.yaml")):
        cfg = OmegaConf.load(file)
        cfg.path = "x"
        as_config(TokenizerConfig, cfg)
    base = OmegaConf.load(conf / "data" / "block_lm.yaml")
    assert set(base) == set(DataConfig.__dataclass_fields__)
    assert set(base.block_infilling) == set(BlockInfillingConfig.__dataclass_fields__)
    mix = OmegaConf.load(conf / "data" / "block_lm_mix.yaml")
    assert isinstance(mix, DictConfig)
    assert mix.pop("defaults") == ["block_lm"]
    made = as_config(DataConfig, OmegaConf.merge(base, mix))
    assert made.block_infilling.gap_sentence_prob == 0.3
    assert json.loads(json.dumps(made.prefixes)) == []
