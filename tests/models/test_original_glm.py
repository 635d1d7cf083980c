"""The original GLM's weights: names and layouts both ways, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import (
    from_original,
    load_whole,
    original_sizes,
    to_original,
    whole_model_name,
)
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel

pytestmark = pytest.mark.usefixtures("alone")
FILE = Path(__file__).resolve().parent.parent / "golden" / "models" / "student_2x32.safetensors"
HEADS = 4
LAST = "decoder.layers.1.mlp.linear_fc2.bias"


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    return load_file(FILE)


@pytest.fixture
def net(original: dict[str, Tensor]) -> GLMModel:
    sizes = {**original_sizes(original), "num_attention_heads": HEADS}
    return GLMModel(glm_config_from_cfg(sizes, sizes["vocab_size"]))


def test_there_and_back(original: dict[str, Tensor]):
    back = to_original(from_original(original, HEADS), HEADS)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], original[name]) for name in original)


def test_sizes(original: dict[str, Tensor]):
    assert original_sizes(original) == {
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 128,
        "vocab_size": 128,
        "max_position_embeddings": 64,
    }


def test_query_key_and_value_are_interleaved_by_head():
    blocks = torch.arange(12.0)  # 2 heads of width 2: q0 q0 q1 q1 k0 k0 k1 k1 v0 v0 v1 v1
    name = "transformer.layers.3.attention.query_key_value."
    ours = from_original({f"{name}bias": blocks, f"{name}weight": blocks.view(12, 1)}, heads=2)
    prefix = "decoder.layers.3.self_attention.linear_qkv."
    assert ours[f"{prefix}bias"].tolist() == [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]
    assert torch.equal(ours[f"{prefix}weight"][:, 0], ours[f"{prefix}bias"])


@pytest.mark.parametrize("name", ["encoder.weight", "transformer.layers.0.mlp.gate.weight", "bias"])
def test_unknown_names_are_refused(name: str):
    for rename in (from_original, to_original):
        with pytest.raises(ValueError, match=f"'{name}' is no weight of a GLM"):
            rename({name: torch.zeros(1)}, HEADS)


def test_all_weights_are_loaded(original: dict[str, Tensor], net: GLMModel):
    state = from_original(original, HEADS)
    load_whole(net, state)
    loaded = {whole_model_name(net, name): p for name, p in net.named_parameters()}
    assert loaded.keys() == state.keys()
    for name, parameter in loaded.items():
        assert torch.equal(parameter, state[name]), name


def test_rows_that_pad_the_vocabulary_are_zero(original: dict[str, Tensor]):
    sizes = {**original_sizes(original), "num_attention_heads": HEADS}
    state = from_original(original, HEADS)
    word = "embedding.word_embeddings.weight"
    state[word] = state[word][:100]
    net = GLMModel(glm_config_from_cfg(sizes, vocab_size=100))
    load_whole(net, state)
    weight = net.embedding.word_embeddings.weight
    assert torch.equal(weight[:100], state[word])
    assert not weight[100:].any()


def test_a_missing_weight_is_named(original: dict[str, Tensor], net: GLMModel):
    state = from_original(original, HEADS)
    del state[LAST]
    with pytest.raises(ValueError, match=f"no '{LAST}'"):
        load_whole(net, state)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (LAST, (31,)),
        ("embedding.position_embeddings.weight", (64, 32)),
        ("embedding.word_embeddings.weight", (129, 32)),
        ("decoder.layers.0.self_attention.linear_qkv.weight", (96, 33)),
    ],
)
def test_a_weight_of_another_size_is_named(
    original: dict[str, Tensor], net: GLMModel, name: str, shape: tuple[int, ...]
):
    state = {**from_original(original, HEADS), name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=rf"{name}: the checkpoint's shard is \({shape[0]}"):
        load_whole(net, state)


def test_a_checkpoint_of_another_model_is_refused(original: dict[str, Tensor], net: GLMModel):
    state = from_original(original, HEADS)
    word = "embedding.word_embeddings.weight"
    with pytest.raises(ValueError, match="60 rows for 128 tokens"):
        load_whole(net, {**state, word: state[word][:60]})
    extra = "decoder.layers.7.input_layernorm.weight"
    with pytest.raises(ValueError, match=r"layers\.7"):
        load_whole(net, {**state, extra: torch.zeros(32)})
