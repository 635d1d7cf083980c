"""MobileBERT's inverted bottleneck against formulas on whole tensors; layouts: test_albert.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor, nn

from glmkd_nemo.checkpoint.original_glm import from_original, original_sizes, to_original
from glmkd_nemo.distill.taps import record
from glmkd_nemo.engine.norm import LocalLayerNorm
from glmkd_nemo.models.activation import gelu_tanh
from glmkd_nemo.models.bottleneck import BottleneckLayer
from glmkd_nemo.models.embedding import Trigram
from glmkd_nemo.models.layer_spec import block_spec
from glmkd_nemo.models.mask import AttentionMask, prefix_mask
from glmkd_nemo.models.truncate import whole_weights
from tests.models.test_layer_spec import (  # noqa: F401  (a fixture)
    FusedLinear,
    FusedNorm,
    transformer_engine,
)
from tests.models.tiny import SEQUENCE, VOCAB, batch, config, model

pytestmark = pytest.mark.usefixtures("alone")
HEADS, H = 4, 16
FORMS: dict[str, dict[str, Any]] = {
    "student": {"bottleneck_size": 8, "bottleneck_ffns": 3, "bottleneck_word_embedding": 5},
    "teacher": {"bottleneck_size": 24, "bottleneck_word_embedding": 16},
    "one_kind": {"bottleneck_size": 8, "bottleneck_ffns": 2},
}


def _norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def _linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _ffn(w: dict[str, Tensor], mlp: str, x: Tensor) -> Tensor:
    return _linear(w, f"{mlp}.dense_4h_to_h", gelu_tanh(_linear(w, f"{mlp}.dense_h_to_4h", x)))


def _layer(w: dict[str, Tensor], x: Tensor, mask: Tensor, ffns: int) -> dict[str, Tensor]:
    """A layer with the original's weights, ``[b, s, h]``, and what it taps."""
    hidden = _norm(w, "input_layernorm", x)
    mixed = _linear(w, "attention.query_key_value", hidden).chunk(3, -1)
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in mixed)
    scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~mask, -65504.0)
    context = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    inner = _linear(w, "ib_linear_in", x) + _linear(w, "attention.dense", context)
    inner = inner + _ffn(w, "mlp", _norm(w, "post_attention_layernorm", inner))
    for i in range(ffns - 1):
        inner = inner + _ffn(w, f"ib_mlp.{i}", _norm(w, f"ib_mlp_layernorm.{i}", inner))
    out = x + _linear(w, "ib_linear_out", _norm(w, "ib_linear_out_layernorm", inner))
    return {"hidden": hidden, "query": q, "value": v, "scores": scores, "layer_output": out}


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_and_its_taps(form: str):
    net = model(tapped=range(3), **FORMS[form])
    names = ("hidden", "query", "value", "scores", "layer_output")
    keys = [(name, i) for name in names for i in range(3)]
    with record([*keys, ("embedding", None)]) as taps:
        net(**batch())
    weights = to_original(dict(whole_weights(net)), HEADS)
    x = taps["embedding", None].value
    mask = prefix_mask(batch()["attention_mask"], SEQUENCE)
    for i in range(3):
        prefix = f"transformer.layers.{i}."
        own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        expected = _layer(own, x, mask, FORMS[form].get("bottleneck_ffns", 1))
        for name in names:
            torch.testing.assert_close(taps[name, i].value, expected[name], rtol=0, atol=1e-9)
        x = expected["layer_output"]


def test_neighbours_of_a_word():
    """By hand: one column, the identity; the last of the context must not see a blank."""
    trigram = Trigram(1, config(bottleneck_size=8, bottleneck_word_embedding=1))
    trigram.linear = nn.Identity()
    words = torch.arange(1.0, 7.0).view(1, 6, 1).expand(1, 6, 4)
    found = trigram(words, AttentionMask(torch.tensor([3]), 6))[0].tolist()
    #        next or two before, the word, the one before
    assert found == [[2, 1, 0], [3, 2, 1], [1, 3, 2], [2, 4, 3], [3, 5, 4], [4, 6, 5]]
    square = AttentionMask(prefix_mask(torch.tensor([3]), 6), 6)
    assert trigram(words, square)[0].tolist() == found


def test_a_position_sees_nothing_that_attention_may_not():
    net, inputs = model(**FORMS["student"]), batch()
    sep = int(inputs["attention_mask"][0])
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, sep + 1] += 1
    before, after = net(**inputs), net(**changed)
    assert torch.equal(before[0, : sep + 1], after[0, : sep + 1])
    assert not torch.equal(before[0, sep + 1], after[0, sep + 1])


def test_the_head_uses_all_columns_and_the_input_some():
    columns = FORMS["student"]["bottleneck_word_embedding"]
    net, inputs = model(**FORMS["student"]), batch()
    word = net.embedding.word_embeddings.weight
    with record([("embedding", None), ("output", None)]) as taps:
        logits = net(**inputs)
    torch.testing.assert_close(logits, taps["output", None].value @ word[:VOCAB].T)
    with torch.no_grad():
        word[:, columns:] += 1
    with record([("embedding", None)]) as again:
        assert not torch.allclose(net(**inputs), logits)
    assert torch.equal(again["embedding", None].value, taps["embedding", None].value)


def test_neighbours_are_independent_of_the_bottleneck():
    net = model(bottleneck_word_embedding=6)
    assert not isinstance(net.decoder.layers[0], BottleneckLayer)
    assert net.embedding.trigram.linear.weight.shape == (H, 18)
    assert net(**batch()).isfinite().all()


def test_number_of_parameters():
    b, inner, ffns, columns = 8, 32, 3, 5
    attention = (H * 3 * b + 3 * b) + (b * b + b)
    ffn = (b * inner + inner) + (inner * b + b) + 2 * b
    around = (H * b + b) + (b * H + H) + 2 * b + 2 * H
    rest = 128 * H + (3 * columns * H + H) + 2 * 21 * H + 2 * H
    assert model(**FORMS["student"]).num_parameters() == (
        rest + 3 * (attention + ffns * ffn + around)
    )


@pytest.mark.parametrize("form", FORMS)
def test_names_and_sizes_of_the_original(form: str):
    net = model(**FORMS[form])
    state = dict(whole_weights(net))
    original = to_original(state, HEADS)
    back = from_original(original, HEADS)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], weight) for name, weight in state.items())
    sizes = original_sizes(original)
    for name, value in FORMS[form].items():
        assert sizes[name] == value
    assert sizes["ffn_hidden_size"] == 4 * FORMS[form]["bottleneck_size"]
    assert (sizes["hidden_size"], sizes["num_layers"]) == (H, 3)


def test_dropout_and_recompute():
    """The same draws give the same values and gradients when layers are recomputed."""
    form = {**FORMS["student"], "hidden_dropout": 0.3, "attention_dropout": 0.3}
    found = []
    for recompute in (None, "full"):
        net = model(**form, activations_checkpoint_granularity=recompute).train()
        torch.manual_seed(5)
        net(**batch()).square().sum().backward()
        found.append([p.grad for p in net.parameters()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.usefixtures("transformer_engine")
def test_fused_layers_keep_one_set_of_names():
    """With Transformer Engine the inner layernorms are fused too, and are saved as such."""
    settings = config(transformer_engine=None, **FORMS["student"])
    plain, fused = block_spec(settings, range(2), {0}).layer_specs
    for spec in (plain, fused):
        assert spec.module is BottleneckLayer
        outside, inside = spec.submodules, spec.params["inside"]
        assert outside.self_attention.submodules.linear_proj is IdentityOp
        assert (outside.mlp, outside.pre_mlp_layernorm) == (IdentityOp, IdentityOp)
        assert inside.self_attention.submodules.linear_proj is not IdentityOp
    assert plain.params["inside"].pre_mlp_layernorm is LocalLayerNorm
    assert fused.params["inside"].mlp.submodules.linear_fc1 is FusedLinear
    names = plain.submodules.sharded_state_dict_keys_map
    assert names["more_ffns.1.layernorm."] == "more_ffns.1.mlp.linear_fc1.layer_norm_"
    assert "more_ffns.2.layernorm." not in names


@pytest.mark.usefixtures("transformer_engine")
def test_shared_layers_are_of_one_kind():
    settings = config(transformer_engine=None, share_layers=True)
    for tapped, norm in (((), IdentityOp), ((2,), LocalLayerNorm)):
        found = block_spec(settings, range(2), tapped)
        assert [layer.submodules.input_layernorm for layer in found.layer_specs] == [norm] * 2
        assert found.layer_norm is FusedNorm


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bottleneck_size": 10}, "bottleneck_size = 10 is not divisible by num_attention_heads"),
        ({"bottleneck_size": -8}, "bottleneck_size = -8: give a width"),
        ({"embedding_size": 0}, "embedding_size = 0: give a width"),
        ({"bottleneck_ffns": 2}, "bottleneck_ffns = 2: .* only with bottleneck_size"),
        ({"bottleneck_word_embedding": 17}, "bottleneck_word_embedding = 17 columns of .* 16"),
        ({"hidden_size": 18}, "hidden_size = 18 is not divisible by num_attention_heads"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        config(**changes)
