"""MiniLM against its formula written plainly, and the loss on attention that others share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.attention_losses import attention_kl
from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.taps import HEADS, Tap

STUDENT, TEACHER = ModelShape(2, 8, 2), ModelShape(5, 12, 2)
BATCH = Batch(*[torch.zeros(3, 4)] * 5)
pytestmark = pytest.mark.usefixtures("alone")


def normal(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def plain_kl(s: Tensor, t: Tensor) -> Tensor:
    """``[b]`` of ``[b, n, s, s]``: the definition, entry by entry."""
    p, q = t.exp(), s.exp()
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    return (p * (p / q).log()).sum(-1).mean((1, 2))


def method(student: ModelShape = STUDENT, teacher: ModelShape = TEACHER):
    cls = method_class("minilm")
    return cls(cls.Config(), student, teacher)


def test_parts_read_the_last_layers():
    parts = {p.name: (p.student, p.teacher) for p in method().parts(StepContext())}
    assert parts == {
        "attention": ((("probs", 1),), (("probs", 4),)),
        "values": ((("value", 1),), (("value", 4),)),
    }


def test_values_are_those_of_the_formula():
    """Probabilities go through the softmax again; widths of a head differ, 4 and 6."""
    probs = [normal(3, 2, 4, 4, seed=i).softmax(-1) for i in (0, 1)]
    values = normal(3, 2, 4, 4, seed=2), normal(3, 2, 4, 6, seed=3)
    taps = [
        {("probs", layer): Tap(p, HEADS), ("value", layer): Tap(v, HEADS)}
        for layer, p, v in zip((1, 4), probs, values, strict=True)
    ]
    found = {p.name: p.loss(*taps, BATCH) for p in method().parts(StepContext())}
    torch.testing.assert_close(found["attention"], plain_kl(*probs))
    relations = [v @ v.transpose(-1, -2) / v.shape[-1] ** 0.5 for v in values]
    torch.testing.assert_close(found["values"], plain_kl(*relations))


def test_unequal_heads_are_refused():
    with pytest.raises(ValueError, match="student has 2 heads and the teacher 3: use minilmv2"):
        method(teacher=ModelShape(5, 12, 3))


def test_attention_kl_of_masked_scores():
    """Entries masked in both count for nothing, and nothing is NaN."""
    s, t = normal(3, 2, 4, 4, seed=0).requires_grad_(), normal(3, 2, 4, 4, seed=1)
    seen = torch.ones(4, 4).tril().bool()
    masked = [x.masked_fill(~seen, -65504.0) for x in (s, t)]
    found = attention_kl(*(Tap(x, HEADS) for x in masked))
    rows = [plain_kl(s[:, :, i : i + 1, : i + 1], t[:, :, i : i + 1, : i + 1]) for i in range(4)]
    torch.testing.assert_close(found, torch.stack(rows).mean(0))
    found.sum().backward()
    assert s.grad is not None
    assert bool(s.grad.isfinite().all())
    assert not bool(s.grad[:, :, ~seen].any())


def test_attention_kl_of_close_distributions_in_fp32():
    """Its terms are hundreds of times larger than their sum."""
    s, t = (0.3 * normal(8, 4, 48, 48, seed=seed) for seed in (0, 1))
    s, t = s.softmax(-1).float(), t.softmax(-1).float()
    exact = plain_kl(s.double(), t.double()).mean()
    found = attention_kl(Tap(s, HEADS), Tap(t, HEADS)).double().mean()
    assert float(found) == pytest.approx(float(exact), rel=1e-5)


def test_both_models_get_their_gradient():
    """Teachers may be trained too."""
    s, t = (normal(1, 2, 3, 3, seed=seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda a, b: attention_kl(Tap(a, HEADS), Tap(b, HEADS)), (s, t))
