"""The fused prediction head: equal to multiplied-out logits, small, and exact near and far."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.divergences import SoftLoss
from glmkd_nemo.distill.fused_kl import HeadTerm, Workspace, head_losses
from tests.distill import fused_cases

pytestmark = pytest.mark.usefixtures("alone")


def test_fused_equals_multiplied_out():
    assert fused_cases.wrong(sp=False) == []


def term(n: int, vocab: int, dtype: torch.dtype, near: float, seed: int = 0) -> tuple:
    g = torch.Generator().manual_seed(seed)
    hidden, head = (torch.randn(k, 16, generator=g, dtype=torch.float64) for k in (n, vocab))
    theirs = hidden + near * torch.randn(n, 16, generator=g, dtype=torch.float64)
    weight = torch.full((n,), 1 / n, dtype=dtype)
    soft = HeadTerm(SoftLoss("kl", 10.0), weight, theirs.to(dtype), head.to(dtype))
    return hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_(), soft


def gradients(near: float, dtype: torch.dtype) -> list[Tensor]:
    hidden, head, soft = term(50, 300, dtype, near)
    total, _ = head_losses(hidden, head, [soft], Workspace(16))
    total.backward()
    assert hidden.grad is not None
    assert head.grad is not None
    return [total.detach(), hidden.grad, head.grad]


@pytest.mark.parametrize("near", [3e-2, 1.0, 30.0])
def test_fp32_is_close_to_float64(near: float):
    """Near: the divergence is 1e-6, a difference of entropies of 5."""
    for found, exact in zip(
        gradients(near, torch.float32), gradients(near, torch.float64), strict=True
    ):
        assert float((found - exact).norm() / exact.norm()) < 1e-5


def test_a_gradient_is_given_once():
    hidden, head, soft = term(3, 5, torch.float32, 1.0)
    total, _ = head_losses(hidden, head, [soft], Workspace())
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        total.backward()


def test_without_gradient_none_is_made():
    hidden, head, soft = term(3, 5, torch.float32, 1.0)
    with torch.no_grad():
        total, values = head_losses(hidden, head, [soft], Workspace())
    assert not total.requires_grad
    assert values.shape == (1, 3)
    frozen, _ = head_losses(hidden, head.detach(), [soft], Workspace())
    frozen.backward()
    assert hidden.grad is not None


def test_half_precision_accumulates_in_fp32():
    found, exact = (gradients(1.0, dtype) for dtype in (torch.bfloat16, torch.float64))
    assert [x.dtype for x in found] == [torch.float32, torch.bfloat16, torch.bfloat16]
    for x, y in zip(found, exact, strict=True):
        assert float((x.double() - y).norm() / y.norm()) < 3e-2
