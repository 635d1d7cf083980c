"""Original weights are divided among model-parallel ranks, and put together again."""

from __future__ import annotations

import pytest
import torch

from glmkd_nemo.checkpoint.partition import kind_of, merge, part_shape, split, whole_shape
from tests.checkpoint.originals import STUDENT, weights_of

LAYER = "transformer.layers.0."


@pytest.mark.parametrize("size", [1, 2, 4])
def test_there_and_back(size: int):
    for name, whole in weights_of(STUDENT).items():
        parts = split(name, whole, size)
        assert torch.equal(merge(name, parts), whole), name
        assert part_shape(name, whole.shape, size) == tuple(parts[0].shape)
        assert whole_shape(name, parts[0].shape, size) == tuple(whole.shape)


def test_a_rank_has_queries_keys_and_values_of_its_heads():
    fused = torch.arange(12)  # q0 q1 q2 q3 k0 .. k3 v0 .. v3
    first, second = split(f"{LAYER}attention.query_key_value.bias", fused, 2)
    assert first.tolist() == [0, 1, 4, 5, 8, 9]
    assert second.tolist() == [2, 3, 6, 7, 10, 11]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("word_embeddings.weight", "rows"),
        ("transformer.position_embeddings.weight", "whole"),
        (f"{LAYER}mlp.dense_h_to_4h.bias", "rows"),
        (f"{LAYER}mlp.dense_4h_to_h.weight", "columns"),
        (f"{LAYER}mlp.dense_4h_to_h.bias", "whole"),
        (f"{LAYER}attention.dense.weight", "columns"),
        (f"{LAYER}ib_linear_in.weight", "rows"),
        (f"{LAYER}ib_linear_out.bias", "rows"),
        (f"{LAYER}ib_linear_out_layernorm.weight", "whole"),
        (f"{LAYER}ib_mlp.0.dense_4h_to_h.weight", "columns"),
        ("compress_emb_mlp.bias", "rows"),
        ("student.fit_dense.weight", "whole"),
        ("student.t_fit_dense_0.2.weight", "rows"),
        ("student.teacher_model_0.word_embeddings.weight", "rows"),
        ("student.multi_teacher_model.agent_mt_soft.weight", "columns"),
        ("student.multi_teacher_model.fit_dense_0.weight", "rows"),
        ("student.multi_teacher_model.t_layernorm_0.weight", "whole"),
        ("multichoice_head.weight", "whole"),
    ],
)
def test_kinds(name: str, kind: str):
    assert kind_of(name) == kind


def test_what_cannot_be_divided_is_named():
    with pytest.raises(ValueError, match=r"query_key_value\.bias \(96,\) cannot be divided .* 5"):
        split(f"{LAYER}attention.query_key_value.bias", torch.zeros(96), 5)


def test_tinyberts_maps_may_be_parallel():
    for name in ("student.fit_dense.weight", "student.model.fit_dense_1.bias"):
        assert (kind_of(name), kind_of(name, fit_parallel=True)) == ("whole", "rows")
