"""Features are those of the reference, number for number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmkd_nemo.data.superglue import SuperGLUEConfig, build_feature, read_examples
from glmkd_nemo.data.superglue.features import verbalizer_id
from glmkd_nemo.data.superglue.sequence import shorten
from glmkd_nemo.data.tokenizer import GLMTokenizer
from glmkd_nemo.replay.features import compare
from tests.data.superglue.conftest import COLLECTIONS, read

NAMES = [(c, name) for c in COLLECTIONS for name in read(c)["features"]]


def test_the_whole_recorded_set_is_here():
    assert [c for c, _ in NAMES].count("recorded") == 56
    tasks = {name.split("_")[0] for _, name in NAMES}
    assert tasks == {"record", "copa", "wsc", "rte", "boolq", "wic", "cb", "multirc"}


@pytest.mark.parametrize(("collection", "name"), NAMES, ids=["-".join(n) for n in NAMES])
def test_features_are_equal(collections: Path, bert: GLMTokenizer, collection: str, name: str):
    examples, problems = compare(collections / collection / "superglue" / f"{name}.json", bert)
    assert examples > 0
    assert not problems


def _changed(record: dict[str, Any], name: str) -> dict[str, Any]:
    """The record with one number of an array of its last example changed."""
    values = np.array(record["features"][-1][name])
    values.flat[-1] += 1
    record["features"][-1][name] = values.tolist()
    return record


@pytest.mark.parametrize(
    "name", ["text", "position", "mask", "dec_text", "dec_position", "dec_mask", "dec_target"]
)
def test_one_other_number_is_seen(collections: Path, bert: GLMTokenizer, name: str):
    file = collections / "own" / "superglue" / "copa_train_seq64_pat0_fast.json"
    changed = file.with_name("changed.json")
    changed.write_text(json.dumps(_changed(json.loads(file.read_text()), name)))
    _, problems = compare(changed, bert)
    assert len(problems) == 1
    assert f": {name} " in problems[0]


def test_options_of_the_record_are_seen(collections: Path, bert: GLMTokenizer):
    folder = collections / "recorded" / "superglue"
    record = json.loads((folder / "boolq_train_seq32_pat0_trunc.json").read_text())
    for key, value, text in (
        ("num_truncated", 1, "2 truncated, recorded 1"),
        ("pattern_id", 1, "target at [0]"),
        ("labels", ["true", "false"], "labels"),
        ("features", record["features"][:1], "2 examples, recorded 1"),
    ):
        changed = folder / "changed.json"
        changed.write_text(json.dumps(record | {key: value}))
        assert any(text in problem for problem in compare(changed, bert)[1])


def test_the_longer_segment_is_shortened_and_the_second_of_equals():
    a, b = [([1, 2, 3], True), ([9], False)], [([8], False), ([4, 5], True), ([], True)]
    assert shorten([a, b], 0) == [1, 2, 3, 9, 8, 4, 5]
    assert shorten([a, b], 1) == [1, 2, 9, 8, 4, 5]
    assert shorten([a, b], 2) == [1, 2, 9, 8, 4]
    assert shorten([a, b], 5) == [9, 8]
    with pytest.raises(ValueError, match="raise seq_length"):
        shorten([a, b], 6)


def test_parts_that_should_stay_give_way_last():
    a, b = [([1, 2], True), ([3, 4, 5], False)], [([6, 7], False)]
    assert shorten([a, b], 3) == [3, 4, 6, 7]
    assert shorten([a, b], 5) == [3, 6]
    with pytest.raises(ValueError, match="raise seq_length"):
        shorten([a, b], 6)


def test_an_example_that_cannot_fit_is_named(tmp_path: Path, bert: GLMTokenizer):
    file = tmp_path / "train.jsonl"
    row = {"premise": "a b", "choice1": "no " * 20, "choice2": "yes", "question": "cause"}
    file.write_text(json.dumps(row | {"label": 0, "idx": 0}) + "\n")
    example = read_examples("copa", file, "train")[0]
    cfg = SuperGLUEConfig("copa", seq_length=16)
    with pytest.raises(ValueError, match=r"train.jsonl:1: .* raise seq_length"):
        build_feature(example, cfg, bert)


def test_a_verbalizer_of_several_tokens_is_refused(bert: GLMTokenizer):
    assert verbalizer_id(" Yes", bert) == bert.encode("yes")[0]
    for word in (" yes no", "[MASK]", "unheard-of"):
        with pytest.raises(ValueError, match=r"multi_token=true"):
            verbalizer_id(word, bert)
