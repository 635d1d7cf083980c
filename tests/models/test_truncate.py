"""A student that starts as a piece of a teacher: against loops over heads, in every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import plain_name, to_original
from glmkd_nemo.models.truncate import cut, start_from, whole_weights
from glmkd_nemo.models.vocab_map import Tables
from tests.distill.single import one_rank
from tests.launch import run_ranks
from tests.models import ranks

pytestmark = pytest.mark.timeout(500)
QKV, DENSE = "attention.query_key_value.", "attention.dense.weight"
WORDS = "word_embeddings.weight"  # rows that only pad the vocabulary stay as they are
TEACHER = {"hidden_size": 24, "num_layers": 5, "ffn_hidden_size": 40}
SMALL = {"hidden_size": 16, "num_layers": 3, "ffn_hidden_size": 44, "num_attention_heads": 2}


def _whole(model: Any) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in whole_weights(model)}


def _expected(own: Tensor, theirs: Tensor, name: str, heads: int, their_heads: int) -> Tensor:
    """The original's layout: three blocks of heads of rows; loops over what is common."""
    out = own.clone()
    if QKV in name:
        blocks, sources = out.chunk(3), theirs.chunk(3)
        for block, source in zip(blocks, sources, strict=True):
            for mine, other in zip(block.chunk(heads), source.chunk(their_heads), strict=False):
                _leading(mine, other)
    elif name.endswith(DENSE):
        pairs = zip(out.chunk(heads, 1), theirs.chunk(their_heads, 1), strict=False)
        for mine, other in pairs:
            _leading(mine, other)
    else:
        _leading(out, theirs)
    return out


def _leading(mine: Tensor, other: Tensor) -> None:
    common = tuple(slice(min(a, b)) for a, b in zip(mine.shape, other.shape, strict=True))
    mine[common] = other[common]


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, Any]]:
    """Two sets of whole weights, and the student cut out of the teacher in one process."""
    with one_rank():
        large, small = ranks.build(TEACHER), ranks.build(SMALL, seed=8)
        found = {
            "teacher": {"changes": TEACHER, "state": _whole(large)},
            "student": {"changes": SMALL, "state": _whole(small)},
        }
        start_from(small, large.config, whole_weights(large))
        return {**found, "cut": _whole(small)}


def test_each_weight_against_loops_over_heads(models: dict[str, Any]):
    """Fewer heads, wider ones; fewer layers and columns; a longer feed-forward keeps its rest."""
    heads, theirs = 2, 4
    before = to_original(models["student"]["state"], heads)
    teacher = to_original(models["teacher"]["state"], theirs)
    found = to_original(models["cut"], heads)
    assert found.keys() == before.keys()
    for name, weight in found.items():
        source = teacher[name][: ranks.VOCAB] if name == WORDS else teacher[name]
        expected = _expected(before[name], source, name, heads, theirs)
        assert torch.equal(weight, expected), name
    rest = found["transformer.layers.0.mlp.dense_h_to_4h.weight"][40:]
    assert torch.equal(rest, before["transformer.layers.0.mlp.dense_h_to_4h.weight"][40:])
    assert any(not torch.equal(found[n], before[n]) for n in found if n.startswith("transformer."))


def test_a_block_of_rows_would_make_keys_of_queries():
    """Two heads of three to two of two: q, k and v stay what they are."""
    name = "decoder.layers.0.self_attention.linear_qkv.bias"
    theirs = torch.arange(18.0)  # head 0: q 0 1 2, k 3 4 5, v 6 7 8; head 1: from 9
    found = cut(name, torch.zeros(12), theirs, 2, 2)
    assert found.tolist() == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16]
    fewer = cut(name, torch.zeros(9), theirs, 1, 2)
    assert fewer.tolist() == theirs[:9].tolist()
    more = cut(name, torch.full((27,), -1.0), theirs, 3, 2)
    assert more.tolist() == [*theirs.tolist(), *[-1.0] * 9]


def test_layouts(models: dict[str, Any]):
    choices = [None, [0, 2, 4]]
    args = {"teacher": models["teacher"], "student": models["student"], "choices": choices}
    found = run_ranks("tests.models.ranks:truncated", 2, args, timeout=120)
    with one_rank():
        large, small = ranks.build(TEACHER), ranks.build(SMALL, seed=8)
        start_from(small, large.config, whole_weights(large), choices[1])
        expected = [models["cut"], _whole(small)]
    for by_layout, whole in zip(found, expected, strict=True):
        assert by_layout.keys() == {"tp2_sp", "pp2"}
        for weights in by_layout.values():
            assert weights.keys() == whole.keys()
            assert all(torch.equal(weights[name], whole[name]) for name in whole)
    moved = [n for n in expected[0] if not torch.equal(expected[0][n], expected[1][n])]
    assert moved
    assert all("layers.1" in n or "layers.2" in n for n in moved)


@pytest.mark.usefixtures("alone")
def test_shared_layers_on_either_side():
    """A shared set goes to every layer of the student; a shared student takes the first layer."""
    shared, plain = ranks.build({"share_layers": True}), ranks.build({"num_layers": 3}, seed=8)
    layer = "decoder.layers.{}.mlp.linear_fc1.weight"
    start_from(plain, shared.config, whole_weights(shared))
    weights = _whole(plain)
    for i in range(3):
        assert torch.equal(weights[layer.format(i)], _whole(shared)[layer.format(0)])
    other = ranks.build({"num_layers": 3}, seed=11)
    start_from(shared, other.config, whole_weights(other), [2, 0, 1, 1])
    assert torch.equal(_whole(shared)[layer.format(0)], _whole(other)[layer.format(2)])


@pytest.mark.usefixtures("alone")
def test_rows_of_kept_tokens():
    """A student with a map takes its tokens' rows; a teacher with one gives the stand-ins'."""
    word, size = "embedding.word_embeddings.weight", 10
    kept = torch.arange(size).flip(0) * 3
    row_of_id = torch.arange(ranks.VOCAB) % size
    mapped = {"vocab_map": {"size": size}}
    plain, small = ranks.build({}), ranks.build(mapped, seed=8)
    small.vocab_map.fill(Tables(kept, row_of_id))
    before, rows = _whole(small)[word], _whole(plain)[word]
    start_from(small, plain.config, whole_weights(plain))
    after = _whole(small)[word]
    assert torch.equal(after[:size], rows[kept])
    assert torch.equal(after[size:], before[size:])  # rows that only pad
    again = ranks.build({}, seed=12)
    table = small.vocab_map.row_of_id
    start_from(again, small.config, whole_weights(small), row_of_id=table)
    assert torch.equal(_whole(again)[word][: ranks.VOCAB], after[row_of_id])


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("layers", [[0, 1], [0, 1, 2, 4], [0, 1, -1, 2]])
def test_layers_that_do_not_fit_are_refused(layers: list[int]):
    large, small = ranks.build({}), ranks.build({}, seed=8)
    with pytest.raises(ValueError, match=r"student_init.layers=\[.*give 4 numbers.* 0 to 3"):
        start_from(small, large.config, whole_weights(large), layers)


def test_names_of_fused_layers():
    layer = "decoder.layers.0."
    for fused, plain in (
        ("self_attention.linear_qkv.layer_norm_bias", "input_layernorm.bias"),
        ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"),
        ("more_ffns.1.mlp.linear_fc1.layer_norm_weight", "more_ffns.1.layernorm.weight"),
        ("mlp.linear_fc1.weight", "mlp.linear_fc1.weight"),
    ):
        assert plain_name(layer + fused) == layer + plain


@pytest.mark.usefixtures("alone")
def test_from_the_configuration(tmp_path: Path):
    """``model.student_init`` in a distillation and in plain training; what it refuses."""
    from tests.models import init_runs

    found = init_runs.run(tmp_path)
    for name in ("hosted", "rounded", "archive", "plain"):
        assert found[name] == found["teacher"]
    assert found["random"] != found["teacher"]
    assert "model.student_init.teacher=t9: give one of model.teachers (t0)" in found["unknown"]
    assert "has another vocabulary than the student" in found["vocabulary"]
    assert not found["kept"]
