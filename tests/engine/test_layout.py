"""Impossible layouts are refused with the remedy; possible ones are not."""

from __future__ import annotations

import pytest

from glmkd_nemo.engine.layout import check_layout
from glmkd_nemo.engine.precision import check_precision, precision_name

MODEL = {
    "num_layers": 6,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "encoder_seq_length": 32,
    "micro_batch_size": 2,
    "global_batch_size": 8,
}
TP, PP = "tensor_model_parallel_size", "pipeline_model_parallel_size"


@pytest.mark.parametrize(
    ("changes", "world"),
    [({}, 1), ({TP: 2}, 2), ({TP: 2, "sequence_parallel": True}, 4), ({PP: 3}, 3), ({PP: 4}, 4)],
)
def test_possible(changes: dict, world: int):
    check_layout({**MODEL, **changes}, world)


@pytest.mark.parametrize(
    ("changes", "world", "words"),
    [
        ({TP: 2, PP: 2}, 6, "6 processes .*start a multiple of 4 processes"),
        ({TP: 4}, 4, r"num_attention_heads=6 is not divisible by .*=4: choose .*\[1, 2, 3, 6\]"),
        ({TP: 2, "hidden_size": 51, "num_attention_heads": 6}, 2, "hidden_size=51 is not div"),
        ({TP: 2, "ffn_hidden_size": 99}, 2, "ffn_hidden_size=99 is not divisible"),
        ({"hidden_size": 50}, 1, "hidden_size=50 is not divisible by 6 attention heads"),
        ({"sequence_parallel": True}, 1, "needs model.tensor_model_parallel_size > 1"),
        ({TP: 2, "sequence_parallel": True, "encoder_seq_length": 31}, 2, "seq_length=31"),
        ({PP: 8}, 8, "num_layers=6 is fewer than .*=8: lower it to 6"),
        ({"virtual_pipeline_model_parallel_size": 2}, 1, "set it to null"),
        ({"global_batch_size": 6}, 2, "global_batch_size=6 .* multiple of 4"),
        ({TP: 0}, 1, "must be at least 1"),
    ],
)
def test_impossible(changes: dict, world: int, words: str):
    with pytest.raises(ValueError, match=words):
        check_layout({**MODEL, **changes}, world)


def test_a_batch_matters_only_for_training():
    check_layout({**MODEL, "global_batch_size": 7}, 1, training=False)


def test_all_problems_are_told_at_once():
    with pytest.raises(ValueError, match="divisible") as caught:
        check_layout({**MODEL, TP: 4, "virtual_pipeline_model_parallel_size": 3}, 4)
    assert len(str(caught.value).splitlines()) == 2


def test_precisions():
    assert [precision_name(p) for p in (32, "bf16-mixed", 16, "fp16")] == ["32", "bf16", "16", "16"]
    with pytest.raises(ValueError, match="precision=64 is unknown"):
        precision_name(64)
    with pytest.raises(ValueError, match="fp8=true needs a CUDA device and Transformer Engine"):
        check_precision({"fp8": True})
    with pytest.raises(ValueError, match="megatron_amp_O2"):
        check_precision({"precision": "bf16", "megatron_amp_O2": False})
