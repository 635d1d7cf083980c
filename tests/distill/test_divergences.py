"""Divergences other than KL: against plain float64 torch, in value and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.divergences import BEYOND_KL, SoftLoss
from glmkd_nemo.distill.methods.glmd import GLMDConfig
from glmkd_nemo.distill.methods.kd import KDConfig
from tests.distill.divergence_cases import LOSSES, MASK, TEMPERATURES, plain, rows

pytestmark = pytest.mark.usefixtures("alone")


def value_and_gradient(
    function: Callable[[Tensor, Tensor], Tensor], s: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    s = s.detach().clone().requires_grad_()
    value = function(s, t)
    value.sum().backward()
    assert s.grad is not None
    return value.detach(), s.grad


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.loss}-{loss.beta}-{loss.skew}")
def test_value_and_gradient(loss: SoftLoss, temperature: float):
    loss = SoftLoss(loss.loss, temperature, loss.beta, loss.skew)
    s, t = rows(0), rows(1)
    found = value_and_gradient(lambda a, b: loss.of_rows(a, b, MASK, s.shape[1]), s, t)
    expected = value_and_gradient(lambda a, b: plain(loss, a, b), s, t)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", BEYOND_KL)
def test_whole_rows_and_classes_are_the_same_divergence(kind: str):
    loss, s, t = SoftLoss(kind, 3.0), rows(0), rows(1)
    whole = loss.of_whole(s, t)
    by_sample = torch.zeros(2, dtype=s.dtype).index_add(0, MASK.nonzero()[:, 0], whole)
    torch.testing.assert_close(loss.of_rows(s, t, MASK, s.shape[1]), by_sample / MASK.shape[1])
    torch.testing.assert_close(loss.of_classes(s, t), whole)
    real = torch.ones_like(s)
    real[:, 3:] = 0
    torch.testing.assert_close(loss.of_classes(s, t, real), loss.of_whole(s[:, :3], t[:, :3]))
    nothing = torch.zeros_like(s)
    assert float(loss.of_classes(s, t, nothing).abs().max()) == 0.0


@pytest.mark.parametrize("kind", BEYOND_KL)
@pytest.mark.parametrize(
    ("scale", "bound"), [(1e-4, 2e-4), (1e-2, 1e-5), (1.0, 1e-5), (60.0, 5e-5)]
)
def test_fp32_loses_nothing_near_and_overflows_nowhere_far(kind: str, scale: float, bound: float):
    """Close distributions, as at high temperatures, and ones that exclude each other's tokens."""
    g = torch.Generator().manual_seed(3)
    t = torch.randn(64, 1000, generator=g)
    s = t + scale * torch.randn(64, 1000, generator=g)
    if scale > 10:
        t = scale * t
    everywhere = torch.ones(64, 1, dtype=torch.bool)

    def loss(s: Tensor, t: Tensor) -> Tensor:
        return SoftLoss(kind).of_rows(s, t, everywhere, 1000)

    ours, grad = value_and_gradient(loss, s, t)
    exact, exact_grad = value_and_gradient(loss, s.double(), t.double())
    assert bool(ours.isfinite().all() and grad.isfinite().all())
    assert bool((ours >= 0).all())
    torch.testing.assert_close(ours.double(), exact, rtol=bound, atol=0)
    assert float((grad - exact_grad).norm()) < bound * float(exact_grad.norm()) + 1e-5 * (
        scale > 10
    )


def test_limits():
    """JSD is symmetric at beta 1/2, at most log 2; skewed KL tends to KL; equal logits give 0."""
    s, t = rows(0), rows(1)
    jsd = SoftLoss("jsd")
    torch.testing.assert_close(jsd.of_whole(s, t), jsd.of_whole(t, s))
    assert float(jsd.of_whole(100 * s, 100 * t).max()) <= math.log(2) + 1e-12
    torch.testing.assert_close(
        SoftLoss("skewed_kl", skew=1e-12).of_whole(s, t), SoftLoss("kl").of_whole(s, t)
    )
    torch.testing.assert_close(SoftLoss("reverse_kl").of_whole(s, t), SoftLoss("kl").of_whole(t, s))
    for kind in BEYOND_KL:
        value, gradient = value_and_gradient(SoftLoss(kind).of_whole, t, t)
        assert float(value.abs().max()) == 0.0
        assert float(gradient.abs().max()) < 1e-15


@pytest.mark.parametrize("config", [KDConfig, GLMDConfig])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "rkl"}, "'rkl' is unknown: kl, ce, mse, reverse_kl, jsd, skewed_kl"),
        ({"temperature": 0.0}, "temperature 0.0 must be above 0"),
        ({"beta": 1.0}, "beta 1.0 must be between 0 and 1"),
        ({"skew": 0.0}, "skew 0.0 must be between 0 and 1"),
    ],
)
def test_impossible_options(config: type[SoftLoss], options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        config(**options).check("kd")
