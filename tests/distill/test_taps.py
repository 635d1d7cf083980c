"""Taps: who gets what, what is refused, and recompute around them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.core import tensor_parallel
from torch import Tensor, nn

from glmkd_nemo.distill.taps import (
    HEADS,
    Tap,
    as_tap,
    check_keys,
    put_logits,
    recomputed,
    record,
    tap,
    wanted,
)

pytestmark = pytest.mark.usefixtures("alone")
HIDDEN = ("hidden", 0)


def ramp(*shape: int) -> Tensor:
    numbers = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64)
    return numbers.view(shape).requires_grad_()


def test_without_a_recorder_nothing_happens():
    x = ramp(3, 2)
    assert tap(x, "hidden", 0) is x
    assert not wanted("hidden", 0)
    put_logits("a handle")


def test_only_wanted_taps_are_kept():
    s_b_h, scores = ramp(4, 2, 3), ramp(2, 4, 4, 4)
    with record([HIDDEN, ("scores", 1), ("logits", None)]) as taps:
        assert tap(s_b_h, "hidden", 0) is s_b_h
        assert (wanted("scores", 1), wanted("scores", 0)) == (True, False)
        tap(scores, "scores", 1)
        tap(scores, "scores", 0)
        tap(s_b_h, "output")
        put_logits("a handle")
    assert set(taps) == {HIDDEN, ("scores", 1), ("logits", None)}
    assert torch.equal(taps[HIDDEN].value, s_b_h.transpose(0, 1))  # handed out as [b, s, h]
    assert taps[HIDDEN].shard is None
    assert taps["scores", 1] == Tap(scores, HEADS)
    assert taps["logits", None] == "a handle"


def test_a_tap_that_is_never_reached_is_named():
    with pytest.raises(KeyError, match=r"never tapped: \[\('hiden', 0\)\]"):  # noqa: SIM117
        with record([("hiden", 0), HIDDEN]):
            tap(ramp(2, 2, 2), "hidden", 0)


def test_a_tap_that_is_reached_twice_is_an_error():
    with record([HIDDEN]):
        tap(ramp(2, 2, 2), "hidden", 0)
        with pytest.raises(RuntimeError, match=r"\('hidden', 0\) was reached twice"):
            tap(ramp(2, 2, 2), "hidden", 0)


def test_an_error_inside_is_not_hidden_and_closes_the_recorder():
    with pytest.raises(ZeroDivisionError), record([HIDDEN]):
        raise ZeroDivisionError
    assert not wanted("hidden", 0)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("hiden", 0), "no tap is called 'hiden'; there are embedding, hidden"),
        (("hidden", None), "'hidden' needs a layer"),
        (("output", 1), "'output' has no layer"),
        (("scores", 2), "layer 2: the model has 2 layers"),
        (("scores", -1), "layer -1: the model has 2 layers"),
    ],
)
def test_impossible_keys_are_refused(key: tuple[str, int | None], message: str):
    check_keys([HIDDEN, ("hidden", 1), ("logits", None)], num_layers=2)
    with pytest.raises(ValueError, match=message):
        check_keys([HIDDEN, key], num_layers=2)


def test_a_plain_tensor_is_an_unsharded_tap():
    x = ramp(2)
    assert as_tap(x) == Tap(x, None)
    assert as_tap(Tap(x, HEADS)).shard == HEADS
    assert torch.equal(Tap(x, HEADS).map(torch.sin).value, x.sin())
    assert Tap(x, HEADS).map(torch.sin).shard == HEADS


class Counted(nn.Module):
    """``sin(tap(x^2))``, counting its forwards."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        assert wanted("hidden", 0), "a recompute takes the branches of the forward"
        return tap(x.square(), "hidden", 0).sin()


@pytest.mark.parametrize("output", [True, False])
def test_a_tap_in_a_recomputed_part_keeps_its_gradient(output: bool):
    x, layer = ramp(3, 2, 2), Counted()
    with record([HIDDEN]) as taps:
        y = recomputed(layer, x)
    loss = taps[HIDDEN].value.pow(3).sum() + (y.sum() if output else 0.0)
    assert layer.runs == 1
    loss.backward()
    assert layer.runs == 2
    expected = 6 * x.detach() ** 5 + (2 * x * x.square().cos() if output else 0.0)
    torch.testing.assert_close(x.grad, expected.detach())


def by_rank(x: Tensor) -> Tensor:
    with tensor_parallel.get_cuda_rng_tracker().fork():
        return nn.functional.dropout(x, 0.5)


def by_all(x: Tensor) -> Tensor:
    return nn.functional.dropout(x, 0.5)


@pytest.mark.parametrize("drop", [by_all, by_rank])
def test_the_recompute_draws_the_dropout_of_the_forward(drop: Any):
    x = torch.ones(1000, requires_grad=True)
    first = recomputed(drop, x)
    second = recomputed(drop, x)
    assert not torch.equal(first, second)
    tracker = tensor_parallel.get_cuda_rng_tracker()
    states = {name: state.clone() for name, state in tracker.get_states().items()}
    (first * first).sum().backward()
    # d(y^2) = 2 y dy/dx: an element that was kept (2) gives 2 * 2 * 2, one that was not gives 0
    torch.testing.assert_close(x.grad, 4 * first.detach())
    after = tracker.get_states()
    assert all(torch.equal(states[name], after[name]) for name in states)
    assert not torch.equal(drop(x), first)
