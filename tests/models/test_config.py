"""What a configuration becomes, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmkd_nemo.models.activation import gelu_tanh
from glmkd_nemo.models.config import GLMConfig, even_split, pipeline_layout
from glmkd_nemo.models.from_cfg import glm_config_from_cfg, use_transformer_engine
from tests.models.tiny import SECTION, VOCAB, config

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fp8": True}, "fp8=true needs Transformer Engine"),
        ({"fp8": True, "transformer_engine": False}, "fp8=true needs Transformer Engine"),
        ({"transformer_engine": True}, "Transformer Engine cannot be imported: install the extra"),
        ({"sequence_parallel": True}, "sequence_parallel needs tensor_model_parallel_size > 1"),
        ({"tensor_model_parallel_size": 3}, "num_attention_heads = 4 is not divisible by .* = 3"),
        ({"activations_checkpoint_granularity": "some"}, "recompute is 'some'; it may be one of"),
        ({"activations_checkpoint_method": "half"}, "'half' is unknown: uniform .* or block"),
        ({"fused_head_rows": 0}, "fused_head_rows = 0: give a number of rows, or null"),
        ({"precision": 64}, "precision=64 is unknown"),
        ({"pipeline_model_parallel_size": 4}, "3 layers cannot be spread over 4 pipeline stages"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_a_vocabulary_size_is_needed():
    with pytest.raises(ValueError, match="vocab_size must be set"):
        glm_config_from_cfg(SECTION, 0)
    with pytest.raises(ValueError, match="vocab_size must be set"):
        GLMConfig(num_layers=1, hidden_size=4, num_attention_heads=2)


@pytest.mark.parametrize(
    ("vocab", "multiple", "tp", "padded"),
    [(125, 128, 1, 128), (128, 128, 2, 128), (129, 128, 2, 256), (5, 1, 4, 8), (7, 6, 4, 12)],
)
def test_padded_vocabulary(vocab: int, multiple: int, tp: int, padded: int):
    changes = {"make_vocab_size_divisible_by": multiple, "tensor_model_parallel_size": tp}
    assert glm_config_from_cfg({**SECTION, **changes}, vocab).padded_vocab_size == padded


def test_even_split():
    assert [even_split(7, n) for n in (1, 2, 3, 7)] == [[7], [4, 3], [3, 2, 2], [1] * 7]


def test_pipeline_layout_puts_the_ends_where_they_belong():
    assert pipeline_layout([2, 0, 1]) == [
        ["embedding", "decoder", "decoder"],
        [],
        ["decoder", "loss"],
    ]


def test_split_of_a_configuration():
    assert config().split == [3]
    assert config(pipeline_model_parallel_size=2).split == [2, 1]
    uneven = glm_config_from_cfg({**SECTION, "pipeline_model_parallel_size": 2}, 9, split=[1, 2])
    assert uneven.split == [1, 2]


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        (32, torch.float32),
        ("32-true", torch.float32),
        ("fp32", torch.float32),
        (16, torch.float16),
        ("16-mixed", torch.float16),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("bf16-mixed", torch.bfloat16),
    ],
)
def test_precision(precision: Any, dtype: torch.dtype):
    found = config(precision=precision)
    assert found.params_dtype == dtype
    assert (found.fp16, found.bf16) == (dtype == torch.float16, dtype == torch.bfloat16)


def test_a_teacher_takes_its_layout_from_the_student():
    student = {"tensor_model_parallel_size": 2, "sequence_parallel": True, "precision": "bf16"}
    found = glm_config_from_cfg({**SECTION, "precision": 32}, VOCAB, parallel=student)
    assert (found.tensor_model_parallel_size, found.sequence_parallel) == (2, True)
    assert found.params_dtype == torch.bfloat16


def test_recompute_of_some_layers():
    changes = {"activations_checkpoint_granularity": "full", "activations_checkpoint_num_layers": 2}
    assert config(**changes, activations_checkpoint_method="block").recompute_layers == 2
    assert config(**changes, activations_checkpoint_method="uniform").recompute_layers is None
    found = config(**changes)
    assert (found.recompute, found.recompute_layers) == ("full", None)
    assert found.recompute_granularity is None  # Megatron-Core's own stays off


def test_defaults():
    found = glm_config_from_cfg(
        {k: v for k, v in SECTION.items() if "dropout" not in k and "init" not in k}, VOCAB
    )
    assert found.ffn_hidden_size == 64
    assert (found.hidden_dropout, found.attention_dropout, found.embedding_dropout) == (0.1,) * 3
    assert config(hidden_dropout=0.3).embedding_dropout == 0.3
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    inner = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    torch.testing.assert_close(gelu_tanh(x), 0.5 * x * (1 + inner.tanh()))


def test_transformer_engine_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch):
    assert [use_transformer_engine(wanted) for wanted in (None, False)] == [False, False]
    monkeypatch.setattr("megatron.core.transformer.transformer_block.HAVE_TE", True)
    assert [use_transformer_engine(w) for w in (None, True, False)] == [True, True, False]
