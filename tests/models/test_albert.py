"""ALBERT's two savings: one set of weights for all layers, and a factorised embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import load_whole
from glmkd_nemo.distill.gather import whole_gradients
from glmkd_nemo.distill.taps import record
from glmkd_nemo.engine import schedule
from glmkd_nemo.models.truncate import whole_weights
from tests.distill.single import one_rank
from tests.launch import run_ranks
from tests.models import ranks, tiny

pytestmark = pytest.mark.timeout(500)
H, E, LAYERS = 16, 12, 3


@pytest.fixture(scope="module")
def references() -> dict[str, dict[str, Any]]:
    """By form: whole weights, what one process makes of them, and their number."""
    found = {}
    with one_rank():
        for form, changes in ranks.FORMS.items():
            model = ranks.build(changes)
            state = {name: w.clone() for name, w in whole_weights(model)}
            found[form] = {"state": state, "parameters": model.num_parameters()}
            found[form] |= ranks.train(model)
    return found


@pytest.fixture(scope="module")
def found(references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes make of the same weights, in every layout."""
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    states = {form: reference["state"] for form, reference in references.items()}
    args = {"states": states, "folder": folder}
    return run_ranks("tests.models.ranks:trained", 2, args, timeout=300)


@pytest.mark.parametrize("optimizer", ["adam", "mcore_distributed_optim"])
def test_gradients_are_the_same_when_reduced_during_the_backward(
    found: dict[str, Any], optimizer: str
):
    after, *others = (
        found["overlap"][f"{optimizer} {way}"] for way in ("after", "overlapped", "averaged")
    )
    assert after["early"] == [False] * 3
    assert others[0]["buckets"] > 3
    for other in others:
        assert other["early"] == [
            False,
            True,
            True,
        ]  # the first step learns what a bucket waits for
        assert other["norms"] == pytest.approx(after["norms"], rel=1e-6)
        for ours, expected in zip(other["weights"], after["weights"], strict=True):
            assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-7)


def test_overlapping_names_a_weight_without_gradient(found: dict[str, Any]):
    assert "unused among them" in found["overlap"]["unused"]


@pytest.mark.parametrize("name", ranks.LAYOUTS)
@pytest.mark.parametrize("form", ranks.FORMS)
def test_training_is_the_same_in_every_layout(
    references: dict[str, Any], found: dict[str, Any], form: str, name: str
):
    """Gradients, their norm (shared weights counted once), and the loss after an update."""
    expected, ours = references[form], found[form][name]
    assert ours["gradients"].keys() == expected["gradients"].keys()
    for weight, gradient in expected["gradients"].items():
        error = (ours["gradients"][weight] - gradient).norm() / gradient.norm()
        assert error < 1e-5, weight
    assert ours["norms"] == pytest.approx(expected["norms"], rel=2e-5)
    assert ours["losses"] == pytest.approx(expected["losses"], rel=2e-5)
    assert expected["losses"][0] != pytest.approx(expected["losses"][1], rel=1e-2)


@pytest.mark.parametrize("form", ranks.FORMS)
def test_a_checkpoint_moves_between_layouts(
    references: dict[str, Any], found: dict[str, Any], form: str
):
    weights, state = found[form]["checkpoint"]["weights"], references[form]["state"]
    assert weights.keys() == state.keys()
    for name, weight in state.items():
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize("form", ranks.FORMS)
def test_stages_start_as_one_model(references: dict[str, Any], found: dict[str, Any], form: str):
    start = found[form]["start"]
    assert start["parameters"] == references[form]["parameters"]
    assert start["equal"] == ("share_layers" in ranks.FORMS[form])


def test_a_checkpoint_has_shared_weights_once(found: dict[str, Any]):
    names = found["albert"]["checkpoint"]["names"]
    shared = [name for name in names if name.startswith("model.decoder.shared_layer.")]
    assert len(shared) == 12
    weights = [name for name in names if not name.endswith("_extra_state")]
    assert not [name for name in weights if ".layers." in name]


@pytest.mark.usefixtures("alone")
def test_shared_layers_are_equal_layers():
    """Values of a model with equal weights in all layers; its gradient is the sum over layers."""
    shared, plain = tiny.model(share_layers=True), tiny.model()
    weights = dict(whole_weights(shared))
    layer = "decoder.layers."
    spread = {
        name.replace(f"{layer}0.", f"{layer}{i}."): weight
        for name, weight in weights.items()
        for i in (range(LAYERS) if name.startswith(layer) else (0,))
    }
    load_whole(plain, spread)
    grads = []
    for model in (shared, plain):
        chunks = schedule.wrap_in_ddp([model], model.config, "adam")
        chunks[0].zero_grad_buffer()
        logits = model(**tiny.batch())
        logits.square().sum().backward()
        grads.append((logits, whole_gradients(model)))
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=0, atol=1e-12)
    for name, gradient in grads[0][1].items():
        several = range(LAYERS) if name.startswith(layer) else (0,)
        each = [grads[1][1][name.replace(f"{layer}0.", f"{layer}{i}.")] for i in several]
        torch.testing.assert_close(gradient, sum(each), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("alone")
def test_every_shared_layer_has_its_own_taps():
    net = tiny.model(tapped=range(LAYERS), share_layers=True)
    keys = [(name, i) for name in ("hidden", "scores", "layer_output") for i in range(LAYERS)]
    with record(keys) as taps:
        net(**tiny.batch())
    outputs = [taps["layer_output", i].value for i in range(LAYERS)]
    norm = net.decoder.layers[0].input_layernorm
    for i in range(1, LAYERS):
        assert not torch.allclose(outputs[i], outputs[i - 1])
        torch.testing.assert_close(taps["hidden", i].value, norm(outputs[i - 1]))


@pytest.mark.usefixtures("alone")
def test_a_state_dict_has_shared_weights_once():
    net, other = tiny.model(share_layers=True), tiny.model(share_layers=True)
    state = {name: w.clone() + 1 for name, w in net.state_dict().items() if w is not None}
    assert not [name for name in state if ".layers.1." in name]
    other.load_state_dict(state)
    for name, weight in other.state_dict().items():
        assert weight is None or torch.equal(weight, state[name]), name
    del state["decoder.layers.0.mlp.linear_fc1.weight"]
    with pytest.raises(RuntimeError, match="linear_fc1"):
        other.load_state_dict(state)


def _linear(x: Tensor, module: torch.nn.Linear) -> Tensor:
    return x @ module.weight.T + module.bias


@pytest.mark.usefixtures("alone")
def test_a_factorised_embedding():
    net, inputs = tiny.model(embedding_size=E), tiny.batch()
    word = net.embedding.word_embeddings.weight
    assert word.shape == (128, E)
    with record([("embedding", None), ("output", None)]) as taps:
        logits = net(**inputs)
    embedding = _linear(word[inputs["input_ids"]], net.embedding.projection)
    embedding = embedding + net.embedding.position_embeddings(inputs["position_ids"][:, 0])
    embedding = embedding + net.embedding.block_position_embeddings(inputs["position_ids"][:, 1])
    torch.testing.assert_close(taps["embedding", None].value, embedding)
    narrow = _linear(taps["output", None].value, net.output_projection)
    torch.testing.assert_close(logits, narrow @ word[: tiny.VOCAB].T)


@pytest.mark.usefixtures("alone")
def test_number_of_parameters():
    layer = 4 * (H * H + H) + (H * 4 * H + 4 * H) + (4 * H * H + H) + 4 * H
    rest = 2 * 21 * H + 2 * H
    assert tiny.model(share_layers=True).num_parameters() == 128 * H + layer + rest
    factorised = 128 * E + (E * H + H) + (H * E + E)
    albert = tiny.model(share_layers=True, embedding_size=E)
    assert albert.num_parameters() == factorised + layer + rest


@pytest.mark.slow
def test_a_run_goes_on_at_another_layout(tmp_path: Path):
    """Weights, archive and optimizer state of a model of all forms, through the real shell."""
    args = {"root": str(tmp_path)}
    whole = run_ranks("tests.models.resume_runs:alone", 1, args, timeout=150)
    assert whole["losses"][0] != pytest.approx(whole["losses"][5], rel=1e-3)
    for found in run_ranks("tests.models.resume_runs:together", 2, args, timeout=200).values():
        assert sorted(found["losses"]) == [3, 4, 5]
        for step, loss in found["losses"].items():
            assert loss == pytest.approx(whole["losses"][step], abs=2e-5)
        for result in (found["restored"], found["held_out"]):
            assert result["val_loss"] == pytest.approx(whole["held_out"]["val_loss"], abs=2e-5)
