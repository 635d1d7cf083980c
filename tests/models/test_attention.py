"""Prefix attention: the mask, and two ways of computing it that agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.taps import record
from glmkd_nemo.models import attention
from glmkd_nemo.models.attention import MASKED_SCORE
from glmkd_nemo.models.mask import prefix_mask
from tests.models.tiny import SEQUENCE, batch, labels, model, reseed

pytestmark = pytest.mark.usefixtures("alone")


def test_context_is_seen_by_all_and_the_rest_causally():
    mask = prefix_mask(torch.tensor([2, 0, 4]), 4)
    assert mask.shape == (3, 1, 4, 4)
    assert mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert torch.equal(mask[1, 0], torch.ones(4, 4).tril().bool())
    assert bool(mask[2].all())


def test_whole_masks_pass():
    whole = prefix_mask(torch.tensor([2, 3]), 5)
    assert torch.equal(prefix_mask(whole, 5), whole)
    assert torch.equal(prefix_mask(whole[:, 0].long(), 5), whole)
    assert torch.equal(prefix_mask(whole.float() * 7, 5), whole)


@pytest.mark.parametrize("shape", [(5, 5), (2, 4, 5), (2, 5), (2, 1, 1, 5, 5), (2, 1, 6, 6)])
def test_other_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"give \[b\] \(sep\), .* with s = 5"):
        prefix_mask(torch.ones(shape), 5)


def test_a_model_takes_whole_masks_too():
    net, inputs = model(), batch()
    expected = net(**inputs)
    mask = prefix_mask(inputs["attention_mask"], SEQUENCE)
    assert torch.equal(net(**{**inputs, "attention_mask": mask}), expected)


def test_a_position_sees_its_context_and_its_past_only():
    net, inputs = model(), batch()
    before = net(**inputs)
    for changed in range(SEQUENCE):
        ids = inputs["input_ids"].clone()
        ids[0, changed] = (ids[0, changed] + 1) % 125
        moved = (net(**{**inputs, "input_ids": ids})[0] - before[0]).abs().amax(-1) > 1e-9
        first = 0 if changed < 3 else changed  # sep of sample 0 is 3
        assert moved.tolist() == [position >= first for position in range(SEQUENCE)]


def output_and_gradients(want: Any = (), **changes: Any) -> tuple[Tensor, list[Tensor], dict]:
    net = model(tapped=(0, 1, 2), **changes)
    with record(want) as taps:
        logits = net(**batch())
    logits.square().sum().backward()
    return logits.detach(), [p.grad for p in net.parameters()], taps


EVERY_SCORE = [("scores", 0), ("scores", 1), ("scores", 2)]


@pytest.mark.parametrize("want", [EVERY_SCORE, [("probs", 1)]])
def test_tapping_changes_neither_output_nor_gradient(want: Any):
    plain, plain_gradients, _ = output_and_gradients()
    tapped, gradients, taps = output_and_gradients(want)
    torch.testing.assert_close(tapped, plain, rtol=1e-12, atol=1e-12)
    for x, y in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)
    assert all(taps[key].value.shape == (2, 4, SEQUENCE, SEQUENCE) for key in want)


@pytest.mark.parametrize("want", [(), EVERY_SCORE])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_attention_scale_changes_no_output(want: Any, scale: float):
    expected, expected_gradients, _ = output_and_gradients()
    found, gradients, _ = output_and_gradients(want, attention_scale=scale)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for x, y in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_tapped_attention_tensors_fit_together(scale: float):
    names = ("query", "key", "value", "scores", "probs")
    want = [(name, 1) for name in names]
    _, _, taps = output_and_gradients(want, attention_scale=scale)
    query, key, value, scores, probs = (taps[name, 1].value for name in names)
    assert query.shape == key.shape == value.shape == (2, 4, SEQUENCE, 4)
    mask = prefix_mask(batch()["attention_mask"], SEQUENCE).expand_as(scores)
    assert bool((scores[~mask] == MASKED_SCORE).all())
    torch.testing.assert_close(scores.softmax(-1), probs)
    raw = query @ key.transpose(-1, -2) / 2.0
    if scale > 1.0:  # as in the original: less the largest score that may be seen, or 0
        raw = raw - raw.masked_fill(~mask, 0.0).amax(-1, keepdim=True)
    torch.testing.assert_close(scores[mask], raw[mask])
    assert all(taps[name, 1].shard == "head" for name in names)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, 0),
        ({"activations_checkpoint_granularity": "full"}, 3),
        ({"activations_checkpoint_granularity": "selective"}, 3),
        (
            {
                "activations_checkpoint_granularity": "full",
                "activations_checkpoint_method": "block",
                "activations_checkpoint_num_layers": 2,
            },
            2,
        ),
    ],
)
def test_recompute_runs_again_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], again: int
):
    dropout = {"hidden_dropout": 0.2, "attention_dropout": 0.2}

    def step(**settings: Any) -> tuple[Tensor, list[Tensor]]:
        net = model(tapped=(0, 1, 2), **dropout, **settings).train()
        reseed()
        with record([("hidden", 1)]) as taps:
            loss = net(**batch(), labels=labels()).mean() + taps_value(taps)
        loss.backward()
        return loss.detach(), [p.grad for p in net.parameters()]

    def taps_value(taps: dict) -> Tensor:
        return taps["hidden", 1].value.pow(3).mean()

    expected, expected_gradients = step()
    fused, calls = attention._fused, []
    monkeypatch.setattr(attention, "_fused", lambda *a: (calls.append(1), fused(*a))[1])
    loss, gradients = step(**changes)
    assert len(calls) == 3 + again
    assert torch.equal(loss, expected)
    for x, y in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
