"""Losses tied to activations, and the shapes of what stages send."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmkd_nemo.distill.pipeline import activation_shape, attach, received_tap, tap_shape
from glmkd_nemo.models.config import GLMConfig

pytestmark = pytest.mark.usefixtures("alone")


def test_an_attached_loss_is_scaled_and_the_activation_is_not():
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    activation = weight * 3
    loss = weight.square().sum()
    asked: list[float] = []

    def scale() -> torch.Tensor:
        asked.append(0.25)
        return torch.tensor([0.25])  # as Megatron-Core's loss scale

    tied = attach(activation, loss, scale)
    assert torch.equal(tied, activation)
    assert asked == []  # the loss scale may still change before the backward
    tied.backward(torch.tensor([10.0, 100.0], dtype=torch.float64))
    assert asked == [0.25]
    assert weight.grad.tolist() == [3 * 10 + 0.25 * 2, 3 * 100 + 0.25 * 4]


def test_an_attached_loss_may_be_of_another_precision():
    weight = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    tied = attach(weight * 1, weight.float().sum(), lambda: torch.tensor(4.0))
    assert tied.dtype == torch.bfloat16
    tied.backward(torch.zeros(2, dtype=torch.bfloat16))
    assert weight.grad.tolist() == [4.0, 4.0]


def test_an_activation_without_gradient_still_carries_the_loss():
    weight = torch.ones(3, requires_grad=True)
    tied = attach(torch.zeros(3), weight.sum(), lambda: torch.tensor(2.0))
    tied.sum().backward()
    assert weight.grad.tolist() == [2.0] * 3


def config(**changes: Any) -> GLMConfig:
    sizes = {"num_layers": 4, "hidden_size": 12, "num_attention_heads": 4, "vocab_size": 7}
    return GLMConfig(**{**sizes, **changes})


def test_shapes_of_messages():
    plain, tp = config(), config(tensor_model_parallel_size=2)
    sp = config(tensor_model_parallel_size=2, sequence_parallel=True)
    assert [activation_shape(c, 3, 10) for c in (plain, tp, sp)] == [(10, 3, 12)] * 2 + [(5, 3, 12)]
    for c, heads in ((plain, 4), (tp, 2), (sp, 2)):
        assert tap_shape(("scores", 1), c, 3, 10) == (3, heads, 10, 10)
        assert tap_shape(("value", 1), c, 3, 10) == (3, heads, 10, 3)
        assert tap_shape(("hidden", 1), c, 3, 10) == (3, 10, 12)  # gathered before it is sent
    assert received_tap(("scores", 1), torch.zeros(1)).shard == "head"
    assert received_tap(("hidden", 1), torch.zeros(1)).shard is None
