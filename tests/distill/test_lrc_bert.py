"""LRC-BERT: contrast of samples, over data-parallel ranks too; perturbed embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.contrastive import cos_nce
from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods.lrc_bert import LRCBERT, LRCBERTConfig
from glmkd_nemo.distill.taps import Tap
from tests.distill import contrast_ranks
from tests.launch import run_ranks

NOTHING = Batch(*[torch.zeros(2, 4)] * 5)
EMBEDDING = ("embedding", None)


def build(**options: Any) -> LRCBERT:
    config = LRCBERTConfig(**options)
    return LRCBERT(config, ModelShape(2, 4, 2), ModelShape(5, 6, 2)).double()


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def plain(s: Tensor, t: Tensor) -> Tensor:
    """``[b]`` sample by sample."""
    b, found = len(s), []
    for i in range(b):
        g = [(1 - F.cosine_similarity(s[i], t[j], dim=-1)).mean() for j in range(b)]
        others = [(2 - (g[j] - g[i])) / (2 * (b - 1)) for j in range(b) if j != i]
        found.append(sum(others) + g[i])
    return torch.stack(found)


def test_values_and_gradients_of_the_formula():
    s, t = draw(3, 5, 4, seed=0).requires_grad_(), draw(3, 5, 4, seed=1)
    found, expected = cos_nce(s, t), plain(s, t)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(x.sum(), s)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_parts_project_the_student_without_bias():
    method = build()
    parts = method.parts(StepContext())
    assert [(p.name, p.student, p.teacher) for p in parts] == [
        ("hidden_states.0", (("hidden", 1),), (("hidden", 3),)),
        ("hidden_states.1", (("output", None),), (("output", None),)),
    ]
    assert [name for name, _ in method.named_parameters()] == ["fit_dense.weight"]
    s, t = draw(3, 5, 4, seed=2), draw(3, 5, 6, seed=3)
    found = parts[0].loss({("hidden", 1): Tap(s)}, {("hidden", 3): Tap(t)}, NOTHING)
    torch.testing.assert_close(found, plain(s @ method.fit_dense.weight.T, t))


def test_a_single_sample_is_refused():
    with pytest.raises(ValueError, match=r"set micro_batch_size to 2 or more \(or gather_dp=true"):
        cos_nce(draw(1, 5, 4, seed=4), draw(1, 5, 4, seed=5))


def test_without_perturbation_nothing_is_edited():
    assert build().passes == 1
    assert build().edits(StepContext(), NOTHING) == ({}, {})
    assert build(grad_perturb=True).passes == 2


def edit(method: LRCBERT, x: Tensor, forward_pass: int, micro_batch: int = 0) -> Tensor:
    context = StepContext(forward_pass=forward_pass, micro_batch=micro_batch)
    student, teacher = method.edits(context, NOTHING)
    assert student.keys() == {EMBEDDING}
    assert not teacher
    return student[EMBEDDING](x)


def first_pass(method: LRCBERT, gradient: Tensor, micro_batch: int = 0) -> None:
    x = torch.zeros_like(gradient).requires_grad_() * 1.0
    y = edit(method, x, 0, micro_batch)
    assert torch.equal(x, y)
    y.backward(gradient)


def test_second_pass_adds_the_direction_of_each_position():
    method, gradient = build(grad_perturb=True), 1e-6 * draw(2, 3, 4, seed=6)
    gradient[1, 2] = 0.0
    x = draw(2, 3, 4, seed=7).requires_grad_()
    first_pass(method, gradient)
    y = edit(method, x, 1)
    norms = gradient.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(y, x + gradient / norms.clamp_min(1e-30))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.eq(1).all()  # the direction is a constant
    assert torch.equal(edit(method, x, 1), x)  # and it is used once


def test_each_micro_batch_has_its_own():
    method = build(grad_perturb=True)
    gradients = [draw(2, 3, 4, seed=seed) for seed in (8, 9)]
    for number, gradient in enumerate(gradients):
        first_pass(method, gradient, number)
    x = torch.zeros(2, 3, 4, dtype=torch.float64)
    for number in (1, 0):
        found = edit(method, x, 1, number)
        torch.testing.assert_close(found, F.normalize(gradients[number], dim=-1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_not_added(bad: float):
    method, gradient = build(grad_perturb=True), draw(2, 3, 4, seed=10)
    gradient[0, 0, 0] = bad
    first_pass(method, gradient)
    x = draw(2, 3, 4, seed=11)
    assert torch.equal(edit(method, x, 1), x)


def test_validation_has_no_gradient_to_add():
    method, x = build(grad_perturb=True), draw(2, 3, 4, seed=12)
    with torch.no_grad():
        assert torch.equal(edit(method, x, 0), x)
        assert torch.equal(edit(method, x, 1), x)


@pytest.mark.timeout(200)
def test_two_ranks_equal_one_process_with_all_samples():
    args = {"expected": contrast_ranks.whole()}
    checks = run_ranks("tests.distill.contrast_ranks:on_two_ranks", 2, args, timeout=150)
    assert checks == dict.fromkeys(checks, True)
    assert len(checks) == 6
