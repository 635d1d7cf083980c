"""Blank infilling: equal to recorded samples, and what every sample must satisfy."""

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from glmkd_nemo.data.block_infilling import BlockInfilling, pad
from glmkd_nemo.data.config import BlockInfillingConfig
from glmkd_nemo.data.tokenizer import GLMTokenizer, build_tokenizer

from .blocks import check_fields, reconstruct, split_blocks

CASES = [
    "bert_prob1",
    "context_mask",
    "masked_lm",
    "mixed",
    "no_block_position",
    "no_shuffle",
    "random_position",
    "short_seq",
    "single_span",
]


@pytest.fixture(scope="module")
def bert(bert_vocab: Path) -> GLMTokenizer:
    return build_tokenizer(
        {"type": "bert", "path": str(bert_vocab), "task_mask": True, "block_mask": True}
    )


@pytest.mark.parametrize("name", CASES)
def test_equals_the_recorded_samples(
    name: str, recorded: dict[str, Any], bert: GLMTokenizer
) -> None:
    case = recorded["cases"][name]
    options = {k.replace("average_block", "avg_block"): v for k, v in case["config"].items()}
    infilling = BlockInfilling(options, bert, case["max_seq_length"])
    inputs = [recorded["inputs"][i] if isinstance(i, int) else i for i in case["inputs"]]
    for number, call in case["calls"].items():
        noise = Random(case["py_seed"] + int(number))
        made = infilling.construct(inputs, Random(int(number)), noise)
        assert len(made) == len(call["text"])
        for row, sample in enumerate(made):
            check_row(call, row, sample)


def check_row(call: dict[str, Any], row: int, sample: dict[str, Any]) -> None:
    """Equal up to the padding of the recorded batch, which is 0."""
    assert sample["mode"] == call["mode"]
    assert sample["attention_mask"] == call["attention_mask"][row]
    size = len(sample["input_ids"])
    pairs = {"input_ids": "text", "labels": "target", "loss_mask": "loss_mask"}
    for ours, theirs in pairs.items():
        wanted = np.array(call[theirs][row])
        np.testing.assert_array_equal(sample[ours], wanted[:size], err_msg=ours)
        assert not wanted[size:].any()
    places = np.array(call["position_id"][row])  # masked LM was recorded with one row only
    given = sample["position_ids"] if places.ndim == 2 else sample["position_ids"][0]
    np.testing.assert_array_equal(given, places[..., :size])


def test_modes_are_all_recorded(recorded: dict[str, Any]) -> None:
    modes = {call["mode"] for call in recorded["cases"]["mixed"]["calls"].values()}
    assert modes == {"bert", "sentence", "gpt"}


def window_of(tokenizer: GLMTokenizer, text: str, size: int = 200) -> np.ndarray:
    """A window of one document that is longer than it."""
    ids = tokenizer.encode(text)[: size - 1]
    assert len(ids) == size - 1
    return np.array([tokenizer.cls_id, *ids])


@pytest.fixture(scope="module")
def window(tokenizer: GLMTokenizer, texts: list[str]) -> np.ndarray:
    return window_of(tokenizer, max(texts, key=len))


@pytest.fixture(scope="module")
def two_documents(tokenizer: GLMTokenizer, texts: list[str]) -> np.ndarray:
    ids = tokenizer.encode(max(texts, key=len))
    first = [tokenizer.cls_id, *ids[:80], tokenizer.eos_id]
    return np.array([*first, tokenizer.cls_id, *ids[100:210]])


OPTIONS: list[dict[str, Any]] = [
    {"bert_prob": 1.0},
    {"bert_prob": 1.0, "shuffle_blocks": False},
    {"bert_prob": 1.0, "block_position_encoding": False},
    {"bert_prob": 1.0, "random_position": True},
    {"bert_prob": 1.0, "single_span_prob": 1.0},
    {"bert_prob": 1.0, "block_mask_prob": 0.3},
    {"bert_prob": 1.0, "context_mask_ratio": 0.05},
    {"bert_prob": 1.0, "avg_block_length": 6, "bert_ratio": 0.3},
    {"bert_prob": 0.0, "gap_sentence_prob": 1.0, "task_mask": True},
    {"bert_prob": 0.0, "gpt_infill_prob": 0.0, "task_mask": True},
    {"bert_prob": 0.3, "gap_sentence_prob": 0.4, "gpt_infill_prob": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_sample_can_be_undone(
    options: dict[str, Any], window: np.ndarray, tokenizer: GLMTokenizer
) -> None:
    infilling = BlockInfilling(options, tokenizer, len(window))
    for seed in range(25):
        sample = infilling.sample(window, Random(seed))
        check_fields(window, sample, tokenizer, infilling.config)
        task = infilling.config.task_mask
        masks = {"bert": "MASK", "sentence": "sMASK" if task else "MASK"}
        mask = tokenizer.command_token(masks.get(sample["mode"], "gMASK" if task else "MASK"))
        if not infilling.config.context_mask_ratio:
            np.testing.assert_array_equal(*(sample[k][: sample["attention_mask"]] for k in IO))
        reconstruct(window, sample, tokenizer, mask)


IO = ("input_ids", "labels")


def test_the_text_given_is_not_changed(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    before = window.copy()
    for options in ({"bert_prob": 1.0}, {"masked_lm": True, "bert_prob": 1.0}, {"bert_prob": 0.0}):
        BlockInfilling(options, tokenizer, 200).sample(window, Random(0))
    np.testing.assert_array_equal(window, before)


def test_share_and_lengths_of_short_spans(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    infilling = BlockInfilling({"bert_prob": 1.0}, tokenizer, len(window))
    lengths: list[int] = []
    blanked = []
    for seed in range(400):
        blocks = split_blocks(infilling.sample(window, Random(seed)), tokenizer)
        blanked.append(sum(len(b["labels"]) - 1 for b in blocks))
        lengths += [len(b["labels"]) - 1 for b in blocks]
    share = np.array(blanked) / len(window)
    # Drawn until at least 15 % is reached: the last span overshoots.
    assert share.min() >= int(0.15 * len(window)) / len(window)
    assert 0.15 < share.mean() < 0.165
    counts = Counter(lengths)
    poisson = {1: 3.0, 2: 4.5, 3: 4.5, 4: 3.375, 5: 2.025, 6: 1.0125}  # 3^k / k!
    unit = sum(counts[length] for length in poisson) / sum(poisson.values())
    for length, weight in poisson.items():  # within four standard deviations
        wanted = unit * weight
        assert counts[length] == pytest.approx(wanted, abs=4 * wanted**0.5), length
    assert max(lengths) < 16


@pytest.mark.parametrize("shuffle", [True, False])
def test_order_of_blocks(shuffle: bool, window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    options = {"bert_prob": 1.0, "shuffle_blocks": shuffle}
    infilling = BlockInfilling(options, tokenizer, len(window))
    rising = []
    for seed in range(40):
        places = [
            b["place"] for b in split_blocks(infilling.sample(window, Random(seed)), tokenizer)
        ]
        assert len(set(places)) == len(places)
        rising.append(np.mean(np.diff(places) > 0))
    assert (0.4 < np.mean(rising) < 0.6) if shuffle else np.mean(rising) == 1.0


def test_frequency_of_objectives(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    options = {"bert_prob": 0.5, "gap_sentence_prob": 0.3, "gpt_min_ratio": 0.25}
    infilling = BlockInfilling(options, tokenizer, len(window))
    modes = Counter(infilling.sample(window, Random(seed))["mode"] for seed in range(1000))
    assert modes["bert"] == pytest.approx(500, abs=60)
    assert modes["sentence"] == pytest.approx(300, abs=55)
    assert modes["gpt"] == pytest.approx(200, abs=50)


def test_sentences_are_whole(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    options = {"bert_prob": 0.0, "gap_sentence_prob": 1.0, "task_mask": True}
    infilling = BlockInfilling(options, tokenizer, len(window))
    ends = tokenizer.sentence_ends
    for seed in range(30):
        sample = infilling.sample(window, Random(seed))
        sep = sample["attention_mask"]
        masks = np.flatnonzero(sample["input_ids"][:sep] == tokenizer.smask_id)
        blocks = split_blocks(sample, tokenizer)
        assert len(masks) == len(blocks)
        for i in masks:
            before = sample["input_ids"][i - 1]
            assert ends[before] or before in (tokenizer.cls_id, tokenizer.smask_id)
        total = 0
        for block in blocks:
            inner = block["labels"][:-1]
            total += len(inner)
            assert not ends[inner[:-1]].any()
        assert total >= int(0.15 * len(window))


def test_long_spans(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    options = {"bert_prob": 0.0, "gpt_infill_prob": 0.5, "gpt_min_ratio": 0.25, "task_mask": True}
    infilling = BlockInfilling(options, tokenizer, len(window))
    ends, lengths = [], []
    for seed in range(300):
        sample = infilling.sample(window, Random(seed))
        sep = sample["attention_mask"]
        assert (sample["input_ids"][:sep] == tokenizer.gmask_id).sum() == 1
        assert sample["input_ids"][sep] == tokenizer.sop_id
        at_end = sample["labels"][-1] != tokenizer.eop_id
        ends.append(at_end)
        length = len(window) - sep + 1
        lengths.append(length)
        if at_end:  # context, mask, then the rest of the text, shifted by the start token
            context, block = sample["labels"][: sep - 1], sample["labels"][sep:]
            np.testing.assert_array_equal(np.concatenate((context, block)), window)
            np.testing.assert_array_equal(sample["input_ids"][sep + 1 :], block[:-1])
            assert (sample["position_ids"][0, sep:] == sep - 1).all()
            inside = np.arange(1, length + 1)
            np.testing.assert_array_equal(sample["position_ids"][1, sep:], inside)
            assert not sample["loss_mask"][:sep].any()
            assert sample["loss_mask"][sep:].all()
    assert min(lengths) >= int(0.25 * len(window))
    assert max(lengths) <= len(window) - 2
    assert np.mean(lengths) == pytest.approx((50 + 198) / 2, rel=0.08)
    assert 0.4 < np.mean(ends) < 0.6


def test_blanks_never_cross_documents(two_documents: np.ndarray, tokenizer: GLMTokenizer) -> None:
    markers = {tokenizer.eos_id, tokenizer.cls_id}
    spans = BlockInfilling({"bert_prob": 1.0}, tokenizer, 200)
    sentences = BlockInfilling({"bert_prob": 0.0, "gap_sentence_prob": 1.0}, tokenizer, 200)
    both = set()
    for seed in range(60):
        sample = spans.sample(two_documents, Random(seed))
        assert (sample["labels"][: sample["attention_mask"]] == tokenizer.eos_id).sum() == 1
        for block in split_blocks(sample, tokenizer):
            assert not markers & set(block["labels"])
            both.add(block["place"] < 60)
        for block in split_blocks(sentences.sample(two_documents, Random(seed)), tokenizer):
            assert tokenizer.eos_id not in block["labels"]
    assert both == {True, False}, "blanks in both documents"


def test_long_span_over_documents_is_at_the_end(
    two_documents: np.ndarray, tokenizer: GLMTokenizer
) -> None:
    options = {"bert_prob": 0.0, "gpt_infill_prob": 0.0, "gpt_min_ratio": 0.8}
    infilling = BlockInfilling(options, tokenizer, 200)
    for seed in range(20):
        sample = infilling.sample(two_documents, Random(seed))
        given = sample["labels"] == tokenizer.cls_id
        assert given.sum() == 2
        assert not sample["loss_mask"][given].any(), "a start token is never predicted"


def test_masked_lm(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    infilling = BlockInfilling({"bert_prob": 1.0, "masked_lm": True}, tokenizer, len(window))
    sample = infilling.sample(window, Random(1))
    blank = sample["loss_mask"] == 1
    assert sample["attention_mask"] == len(window)
    np.testing.assert_array_equal(sample["labels"], window)
    assert (sample["input_ids"][blank] == tokenizer.mask_id).all()
    np.testing.assert_array_equal(sample["input_ids"][~blank], window[~blank])
    assert 0.14 < blank.mean() < 0.25


def test_sentinels(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    options = {"bert_prob": 1.0, "sentinel_token": True}
    infilling = BlockInfilling(options, tokenizer, len(window))
    sample = infilling.sample(window, Random(3))
    sep = sample["attention_mask"]
    blocks = split_blocks(sample, tokenizer)
    assert [b["name"] for b in blocks] == ["sop", *(f"sop{i}" for i in range(1, len(blocks)))]
    text: list[int] = []
    name_of = {t.id: t.name for t in tokenizer.commands.values() if t.name.startswith("MASK")}
    for token in sample["input_ids"][:sep].tolist():
        number = int(name_of.get(token, "MASK").removeprefix("MASK") or 0)
        text += blocks[number]["labels"][:-1] if token in name_of else [token]
    assert text == window.tolist()
    assert (sample["position_ids"][0, sep:] == len(window)).all()


def test_encoder_decoder_targets(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    options = {"bert_prob": 1.0, "encoder_decoder": True}
    infilling = BlockInfilling(options, tokenizer, len(window))
    sample = infilling.sample(window, Random(3))
    sep = sample["attention_mask"]
    # One stream: every label is the next input, only the last one is the end token.
    np.testing.assert_array_equal(sample["labels"][sep:-1], sample["input_ids"][sep + 1 :])
    assert sample["labels"][-1] == tokenizer.eop_id
    places = [b["place"] for b in split_blocks(sample, tokenizer)]
    assert places == sorted(places)


def test_short_texts(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    options = {"bert_prob": 1.0, "short_seq_prob": 1.0}
    infilling = BlockInfilling(options, tokenizer, len(window))
    sizes = set()
    whole = window.tolist()[1:]
    for seed in range(40):
        sample = infilling.sample(window, Random(seed))
        sep = sample["attention_mask"]
        blocks = {b["place"]: b["labels"][:-1] for b in split_blocks(sample, tokenizer)}
        text: list[int] = []
        for place, token in enumerate(sample["labels"][:sep].tolist()):
            text += blocks.get(place, [token])
        assert text[0] == tokenizer.cls_id
        at = [i for i in range(len(whole)) if whole[i : i + len(text) - 1] == text[1:]]
        assert at, "a stretch of the text"
        sizes.add(len(text))
    assert len(sizes) > 10
    assert min(sizes) < 100


def test_noise_in_blocks_and_context(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    noisy = BlockInfilling({"bert_prob": 1.0, "block_mask_prob": 0.3}, tokenizer, 200)
    near = BlockInfilling({"bert_prob": 1.0, "context_mask_ratio": 0.05}, tokenizer, 200)
    share = []
    for seed in range(40):
        sample = noisy.sample(window, Random(seed))
        sep = sample["attention_mask"]
        hidden = sample["input_ids"] == tokenizer.dblock_id
        assert not hidden[:sep].any()
        assert tokenizer.dblock_id not in sample["labels"]
        share.append(hidden[sep:].mean())
        sample = near.sample(window, Random(seed))
        sep = sample["attention_mask"]
        hidden = np.flatnonzero(sample["input_ids"] == tokenizer.dblock_id)
        assert len(hidden) == 10
        assert hidden.max() < sep
        masks = np.flatnonzero(sample["labels"][:sep] == tokenizer.mask_id)
        anchors = np.append(masks, sep)  # the end of the text counts as one, as in the reference
        assert all(np.abs(anchors - i).min() <= 3 for i in hidden)
        assert tokenizer.dblock_id not in sample["labels"]
    assert 0.17 < np.mean(share) < 0.28  # 0.3 of the text, start tokens never


def test_samples_that_fail_are_drawn_again(tokenizer: GLMTokenizer, window: np.ndarray) -> None:
    # Thirty tokens of blanks in forty: many draws have no room.
    options = {"bert_prob": 1.0, "bert_ratio": 0.75}
    infilling = BlockInfilling(options, tokenizer, 40)
    failed = sum(not infilling.construct([window[:40]], Random(seed)) for seed in range(100))
    assert failed > 5
    for seed in range(100):
        infilling.sample(window[:40], Random(seed))
    with pytest.raises(ValueError, match="3 tokens"):
        infilling.sample(window[:3], Random(0))
    with pytest.raises(ValueError, match="at most 41 positions"):
        infilling.sample(window[:40], Random(0), longest=41)


def test_equal_seeds_give_equal_samples(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    infilling = BlockInfilling({"block_mask_prob": 0.1}, tokenizer, len(window))
    a, b = (infilling.sample(window, Random(5)) for _ in range(2))
    c = infilling.sample(window, Random(6))
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert not np.array_equal(a["input_ids"], c["input_ids"])


def test_pad(window: np.ndarray, tokenizer: GLMTokenizer) -> None:
    sample = BlockInfilling({"bert_prob": 1.0}, tokenizer, 200).sample(window, Random(0))
    size = len(sample["input_ids"])
    row = pad(sample, 300, pad_id=7)
    assert (row["input_ids"][size:] == 7).all()
    assert not row["labels"][size:].any()
    assert not row["loss_mask"][size:].any()
    assert not row["position_ids"][:, size:].any()
    assert row["loss_mask"].dtype == np.float32
    assert row["attention_mask"].shape == ()
    for key in ("input_ids", "labels", "loss_mask"):
        np.testing.assert_array_equal(row[key][:size], sample[key])
    with pytest.raises(AssertionError):
        pad(sample, size - 1, 0)


def test_refused_options(vocab_dir: Path, tokenizer: GLMTokenizer) -> None:
    plain = build_tokenizer({"type": "bert", "path": str(vocab_dir)})
    needy: tuple[tuple[dict[str, Any], str], ...] = (
        ({"task_mask": True}, "task_mask"),
        ({"block_mask_prob": 0.1}, "block_mask"),
        ({"context_mask_ratio": 0.1}, "block_mask"),
        ({"sentinel_token": True}, "sentinels"),
    )
    for options, remedy in needy:
        with pytest.raises(ValueError, match=f"tokenizer.{remedy}"):
            BlockInfilling(options, plain, 128)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"bert_prob": 1.5}, "bert_prob=1.5 is not between 0 and 1"),
        ({"bert_prob": 0.8, "gap_sentence_prob": 0.3}, "exceed 1"),
        ({"avg_block_length": 0}, "avg_block_length > 0"),
        ({"bert_pob": 1.0}, "bert_pob"),
    )
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            BlockInfilling(options, tokenizer, 128)
    assert BlockInfilling(BlockInfillingConfig(), plain, 128).config.bert_prob == 0.5
