"""Triton kernels against float64 torch, and what of them can be checked without Triton.

The kernels run on a GPU if there is one, and otherwise, with ``TRITON_INTERPRET=1`` set before
pytest starts, in Triton's interpreter; the last test compiles them for a GPU without one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill import fused_triton
from glmkd_nemo.distill.fused_triton import Rows, merge_kl, merge_labels

pytestmark = pytest.mark.usefixtures("alone")

ROWS, COLUMNS = 3, 600
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where kernels can run, each row being more than one part, and a part more than a block."""
    pytest.importorskip("triton", reason="Triton is not installed")
    if not INTERPRETED and not fused_triton.available():
        pytest.skip("no GPU: set TRITON_INTERPRET=1 to run the kernels in Triton's interpreter")
    monkeypatch.setattr(fused_triton, "_BLOCK", 128)
    monkeypatch.setattr(fused_triton, "_GRADIENT_BLOCK", 256)
    monkeypatch.setattr(fused_triton, "_MOST_PARTS", 2)
    return "cpu" if INTERPRETED else "cuda"


def logits(case: str) -> tuple[Tensor, Tensor]:
    """Student and teacher; the most probable token of the first row is in the last part."""
    g = torch.Generator().manual_seed(4)
    t, noise = (2 * torch.randn(ROWS, COLUMNS, generator=g) for _ in range(2))
    t[0, -2] = 25.0
    near = {"very near": 5e-4, "near": 5e-3, "usual": 1.0}
    return (200 * noise if case == "far" else t + near[case] * noise), t


def divergence(s: Tensor, t: Tensor, reverse: bool) -> Tensor:
    log_q, log_p = s.log_softmax(-1), t.log_softmax(-1)
    if reverse:
        log_q, log_p = log_p, log_q
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def exact(loss: Callable[[Tensor], Tensor], s: Tensor) -> tuple[Tensor, Tensor]:
    x = s.detach().double().clone().requires_grad_()
    values = loss(x)
    values.sum().backward()
    assert x.grad is not None
    return values.detach(), x.grad


def close(ours: Tensor, theirs: Tensor, bound: float = 1e-5) -> bool:
    """By the norm of each row; a row as good as 0 (softmax of one token) may be 0."""
    error = torch.linalg.vector_norm(ours.double().cpu() - theirs, dim=-1)
    return bool((error <= bound * torch.linalg.vector_norm(theirs, dim=-1) + 1e-12).all())


def of_part(s: Tensor, t: Tensor, off: float) -> Tensor:
    """Statistics ``[8, c]`` as the kernel's, the center ``off`` the mean lead: float64."""
    if not s.shape[1]:
        nothing = torch.zeros(len(s), dtype=s.dtype)
        peak = nothing - torch.inf
        return torch.stack([peak, *[nothing] * 5, peak, nothing])
    top, s_top = t.amax(-1, True), s.amax(-1, True)
    p, lead = (t - top).exp(), s - t
    center = (p * lead).sum(-1, True) / p.sum(-1, True) + off
    u = lead - center
    sums = [p, p * u, p * (u.expm1() - u), p * (t - top), (s - s_top).exp()]
    weight, rest, excess, entropy, s_weight = (x.sum(-1) for x in sums)
    ends = [x.squeeze(-1) for x in (top, center, s_top)]
    return torch.stack([ends[0], weight, ends[1], rest, excess, entropy, ends[2], s_weight])


@pytest.mark.parametrize("case", ["very near", "near", "usual", "far"])
@pytest.mark.parametrize("reverse", [False, True])
def test_parts_merge_to_whole_rows(case: str, reverse: bool):
    """Of ranks as of parts, one of them without columns; needs no Triton."""
    s, t = (x.double() for x in logits(case))
    first, second = (t, s) if reverse else (s, t)
    parts = zip(*(x.split([100, 0, 480, 20], 1) for x in (first, second)), strict=True)
    statistics = torch.stack([of_part(a, b, 0.01 * i) for i, (a, b) in enumerate(parts)], -1)
    rows = merge_kl(statistics, reverse)
    values, gradient = exact(lambda x: divergence(x, t, reverse), s.detach())
    torch.testing.assert_close(rows.values.double(), values, rtol=1e-6, atol=1e-9)
    log_p = second.log_softmax(-1)
    torch.testing.assert_close(
        rows.entropy.double(), -(log_p.exp() * log_p).sum(-1), atol=1e-6, rtol=1e-6
    )
    p_top, p_factor, q_top, q_factor, shift, more = rows.packed.double().unsqueeze(-1)
    p, q = (t - p_top).exp() * p_factor, (s - q_top).exp() * q_factor
    lead = s - t - shift - more
    share = -(-lead.abs()).expm1()
    assert close(q * lead if reverse else torch.where(lead > 0, q, -p) * share, gradient)


def test_hard_label_parts_merge_to_whole_rows():
    s, labels = logits("usual")[0].double(), torch.tensor([0, 599, 300])
    parts, starts = s.split([250, 350], 1), [0, 250]
    statistics = torch.zeros(3, ROWS, 2, dtype=torch.float64)
    for i, (part, start) in enumerate(zip(parts, starts, strict=True)):
        mine = (labels >= start) & (labels < start + part.shape[1])
        picked = s.gather(1, labels.unsqueeze(1)).squeeze(1) * mine
        top = part.amax(-1)
        sums = (part - top.unsqueeze(1)).exp().sum(-1)
        statistics[..., i] = torch.stack([top, sums, picked])
    values = merge_labels(statistics).values
    expected = torch.nn.functional.cross_entropy(s, labels, reduction="none").float()
    torch.testing.assert_close(values, expected)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes what a GPU is needed for")
def test_without_a_gpu_the_error_says_what_to_use():
    s, t = logits("usual")
    assert not fused_triton.takes(s)
    assert fused_triton.available() is False or torch.cuda.is_available()
    assert "glmkd_nemo.distill.fused_triton_kernels" not in sys.modules or fused_triton.available()
    with pytest.raises(RuntimeError, match=r"logits on cpu .* fused_rows"):
        fused_triton.kl_(s, t, torch.ones(ROWS))
    with pytest.raises(RuntimeError, match=r"logits on cpu .* fused_rows"):
        fused_triton.cross_entropy_(s, torch.zeros(ROWS, dtype=torch.long), torch.ones(ROWS))


@pytest.mark.parametrize("case", ["very near", "near", "usual", "far"])
@pytest.mark.parametrize(("reverse", "scale"), [(False, 1.0), (False, 0.25), (True, 0.5)])
def test_divergence_by_kernels(device: str, case: str, reverse: bool, scale: float):
    s, t = logits(case)
    values, gradient = exact(lambda x: divergence(x * scale, t.double() * scale, reverse), s)
    found = s.to(device)
    rows = fused_triton.kl_(
        found, t.to(device), torch.ones(ROWS, device=device), None, scale, reverse=reverse
    )
    torch.testing.assert_close(rows.values.double().cpu(), values, rtol=1e-5, atol=1e-9)
    if not (reverse and case == "far"):  # rows of one token, whose gradient is next to nothing
        assert close(found, gradient)


def test_terms_add_up_in_another_buffer(device: str):
    """Rows further apart than they are wide, weights, a type of 16 bits, hard labels of others."""
    s, t = (torch.zeros(ROWS, 640, dtype=torch.bfloat16, device=device) for _ in range(2))
    for x, values in zip((s, t), logits("usual"), strict=True):
        x[:, :COLUMNS] = values
    s, t, kept = s[:, :COLUMNS], t[:, :COLUMNS], s[:, :COLUMNS].clone()
    labels = torch.tensor([-1, 599, 600])
    weight = torch.tensor([1.0, 0.0, 2.0])
    out = torch.full((ROWS, 700), 7.0, device=device)
    there = out[:, :COLUMNS]
    fused_triton.kl_(s, t, weight.to(device), there, 0.5)
    hard = fused_triton.cross_entropy_(s, labels.to(device), weight.to(device), there, add=True)
    assert torch.equal(s, kept)
    assert bool((out[:, COLUMNS:] == 7).all())

    def total(x: Tensor) -> Tensor:
        picked = torch.stack([x[0, 0] * 0, x[1, 599], x[2, 0] * 0])
        soft = divergence(x * 0.5, t.double().cpu() * 0.5, False)
        return weight * (soft + x.logsumexp(-1) - picked)

    x = s.cpu()
    _, gradient = exact(total, x)
    assert close(there, gradient)
    expected = x.double().logsumexp(-1) - torch.stack([x[0, 0] * 0, x[1, 599], x[2, 0] * 0])
    torch.testing.assert_close(hard.values.double().cpu(), expected, rtol=1e-6, atol=1e-6)


def test_columns_over_ranks(device: str):
    """One of which has none; and no rows at all."""
    s, t = (x.to(device) for x in logits("near"))
    weight = torch.ones(ROWS, device=device)
    whole = s.clone()
    fused_triton.kl_(whole, t, weight)
    ranks = [(s[:, a:b], t[:, a:b]) for a, b in ((0, 350), (350, 600), (600, 600))]
    rows: Rows = merge_kl(torch.cat([fused_triton.kl_statistics(*r) for r in ranks], -1))
    for a, b in ranks:
        fused_triton.kl_gradient_(a, b, rows, weight)
    assert close(s, whole.double().cpu())
    assert fused_triton.kl_(s[:0], t[:0], weight[:0]).values.shape == (0,)


def test_what_does_not_fit_is_refused(device: str):
    s, t = (x.to(device) for x in logits("usual"))
    with pytest.raises(ValueError, match="columns contiguous"):
        fused_triton.kl_(s.t(), t.t(), torch.ones(COLUMNS, device=device))
    with pytest.raises(ValueError, match=r"float64 .* at most 32 bits"):
        fused_triton.kl_(s.double(), t, torch.ones(ROWS, device=device))
    with pytest.raises(ValueError, match="one fp32 number"):
        fused_triton.kl_(s, t, torch.ones(ROWS, device=device, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels cannot be compiled")
@pytest.mark.parametrize("logits_type", ["fp32", "bf16"])
def test_kernels_compile_for_a_gpu(logits_type: str):
    """For compute capability 9.0, without spilling registers; no GPU is needed."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    backend = pytest.importorskip("triton.backends.compiler")
    compiler = pytest.importorskip("triton.compiler")
    from glmkd_nemo.distill import fused_triton_kernels as kernels

    flags = {"BLOCK": 2048, "ADD": True, "REVERSE": False}
    pointers = {"s_pointer": logits_type, "t_pointer": logits_type, "labels_pointer": "i64"}
    for kernel in (
        kernels.kl_statistics,
        kernels.kl_gradient,
        kernels.label_statistics,
        kernels.label_gradient,
    ):
        signature, constants = {}, {}
        for i, name in enumerate(kernel.arg_names):
            if name in flags:
                signature[name], constants[(i,)] = "constexpr", flags[name]
            elif name.endswith("_pointer"):
                signature[name] = "*" + pointers.get(name, "fp32")
            else:
                signature[name] = "fp32" if name == "scale" else "i32"
        source = compiler.ASTSource(kernel, signature, constants)
        target = backend.GPUTarget("cuda", 90, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": 8})
        assert ".visible .entry" in compiled.asm["ptx"]
        assert ".local" not in compiled.asm["ptx"]
