"""The whole model: outputs, the tied head, vocabulary padding, size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from glmkd_nemo.distill.taps import record
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.logits import Logits
from tests.models.tiny import SEQUENCE, VOCAB, batch, config, labels, model

pytestmark = pytest.mark.usefixtures("alone")


def test_logits_loss_and_handle_agree():
    net, inputs = model(), batch()
    logits = net(**inputs)
    assert logits.shape == (2, SEQUENCE, VOCAB)
    handle = net(**inputs, materialize=False)
    assert isinstance(handle, Logits)
    assert torch.equal(handle.all(), logits)
    loss = net(**inputs, labels=labels())
    expected = F.cross_entropy(logits.transpose(1, 2), labels(), reduction="none")
    torch.testing.assert_close(loss, expected)


def test_padding_of_the_vocabulary_never_shows():
    net, inputs = model(), batch()
    weight = net.embedding.word_embeddings.weight
    assert weight.shape[0] == 128
    logits, loss = net(**inputs), net(**inputs, labels=labels())
    with torch.no_grad():
        weight[VOCAB:] = 1e6
    assert torch.equal(net(**inputs), logits)
    assert torch.equal(net(**inputs, labels=labels()), loss)
    net(**inputs, labels=labels()).sum().backward()
    assert not weight.grad[VOCAB:].any()
    assert weight.grad[:VOCAB].any(1).all()  # each real row is in the softmax


def test_head_and_embedding_are_one_matrix():
    net = model()
    assert "output_layer.weight" not in dict(net.named_parameters())
    before = net(**batch())
    row = int(labels()[0, 0])
    assert row not in batch()["input_ids"]
    with torch.no_grad():
        net.embedding.word_embeddings.weight[row] *= 2
    after = net(**batch())
    torch.testing.assert_close(after[..., row], 2 * before[..., row])


@pytest.mark.parametrize("ffn", [None, 24])
def test_number_of_parameters(ffn: int | None):
    h, inner, layers = 16, ffn or 64, 3
    layer = 4 * (h * h + h) + (h * inner + inner) + (inner * h + h) + 4 * h
    assert model(ffn_hidden_size=ffn).num_parameters() == (
        128 * h + 2 * 21 * h + layers * layer + 2 * h
    )


def test_both_rows_of_positions_matter():
    net, inputs = model(), batch()
    before = net(**inputs)
    for row in (0, 1):
        moved = inputs["position_ids"].clone()
        moved[:, row] += 1
        assert not torch.allclose(net(**{**inputs, "position_ids": moved}), before)
    largest = inputs["position_ids"].clone().fill_(20)  # tables have one row more
    assert net(**{**inputs, "position_ids": largest}).isfinite().all()
    with pytest.raises(IndexError):
        net(**{**inputs, "position_ids": largest + 1})


def test_taps_of_the_whole_model_fit_together():
    net = model(tapped=(0, 1, 2))
    want = [("embedding", None), ("hidden", 0), ("output", None), ("logits", None)]
    with record(want) as taps:
        logits = net(**batch())
    embedding, hidden, output = (taps[key].value for key in want[:3])
    assert embedding.shape == hidden.shape == output.shape == (2, SEQUENCE, 16)
    norm = net.decoder.layers[0].input_layernorm
    torch.testing.assert_close(hidden, norm(embedding))
    weight = net.embedding.word_embeddings.weight[:VOCAB]
    torch.testing.assert_close(output @ weight.T, logits)
    assert torch.equal(taps["logits", None].all(), logits)


def test_a_model_in_eval_mode_drops_nothing():
    dropout = {"hidden_dropout": 0.5, "attention_dropout": 0.5}
    net = model(**dropout)
    assert not torch.equal(net.train()(**batch()), net(**batch()))
    assert torch.equal(net.eval()(**batch()), net(**batch()))
    torch.testing.assert_close(net(**batch()), model()(**batch()))


def test_layers_are_numbered():
    net = GLMModel(config(num_layers=2))
    assert net.layers == range(2)
    assert len(net.decoder.layers) == 2
