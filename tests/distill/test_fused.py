"""The fused prediction head: equal to multiplied-out logits, small, and exact near and far."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill import fused_rows, fused_triton
from glmkd_nemo.distill.divergences import SoftLoss
from glmkd_nemo.distill.fused_chunks import KernelChunks
from glmkd_nemo.distill.fused_kl import HeadTerm, Workspace, head_losses
from glmkd_nemo.distill.row_loss import HardLabels
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


def stand_in_kl_(s, t, weight, out, scale, add, reverse):
    x = s.detach().float().requires_grad_()
    with torch.enable_grad():
        values = SoftLoss("reverse_kl" if reverse else "kl").rows(x * scale, t.float() * scale)
        (gradient,) = torch.autograd.grad((values * weight).sum(), x)
    out.copy_(out + gradient if add else gradient)
    return fused_triton.Rows(values.detach(), values, values)


def stand_in_cross_entropy_(s, labels, weight, out, add):
    x = s.detach().float().requires_grad_()
    with torch.enable_grad():
        values = HardLabels().rows(x, None, labels)
        (gradient,) = torch.autograd.grad((values * weight).sum(), x)
    out.copy_(out + gradient if add else gradient)
    return fused_triton.Rows(values.detach(), values, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("losses", [["kl"], ["reverse_kl"], ["hard"], ["kl", "hard", "reverse_kl"]])
def test_the_kernels_way_is_the_same(monkeypatch, losses: list[str], dtype: torch.dtype):
    """With kernels' stand-ins, or in Triton's interpreter with the kernels themselves."""
    hidden, head, soft = term(40, 300, dtype, 1.0)
    terms = [
        HeadTerm(HardLabels(), soft.weight, labels=torch.arange(40))
        if kind == "hard"
        else replace(soft, loss=SoftLoss(kind, 2.0), weight=soft.weight * 1e-9)
        for kind in losses
    ]
    found = []
    for kernels in (False, True):
        if kernels:
            monkeypatch.setattr(fused_triton, "takes", lambda logits: True)
            if "TRITON_INTERPRET" not in os.environ:
                monkeypatch.setattr(fused_triton, "kl_", stand_in_kl_)
                monkeypatch.setattr(fused_triton, "cross_entropy_", stand_in_cross_entropy_)
        assert KernelChunks.fits(hidden, head, terms) == kernels
        hidden.grad = head.grad = None
        total, values = head_losses(hidden, head, terms, Workspace(24))
        (total * 3).backward()
        found.append([total.detach(), values, hidden.grad, head.grad])
    for x, y in zip(*found, strict=True):
        assert float((x - y).norm() / x.norm()) < (1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("temperature", [0.02, 10.0])
def test_rows_far_and_near_without_asking_the_device(monkeypatch, temperature: float):
    """What other devices do: both forms, and a choice by row."""
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 6, 9, generator=g) / temperature
    t[3] = s[3] + 1e-3
    expected = s.clone(), t.clone()
    values, factor = fused_rows.kl_(*expected, temperature)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    ours = s.clone(), t.clone()
    found, own = fused_rows.kl_(*ours, temperature)
    torch.testing.assert_close(found, values)
    torch.testing.assert_close(ours[0] * own, expected[0] * factor)


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


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_fp32(half: torch.dtype):
    found, exact = (gradients(1.0, dtype) for dtype in (half, torch.float64))
    assert [x.dtype for x in found] == [torch.float32, half, half]
    for x, y in zip(found, exact, strict=True):
        assert float((x.double() - y).norm() / y.norm()) < 3e-2
