"""Losses on the answers of a task: soft, hard, and answers that only pad."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.class_losses import hard_classes, soft_classes
from glmkd_nemo.distill.method import Batch, Method, ModelShape, StepContext, TaskBatch
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.taps import Tap

CLASSES = ("classes", None)
KINDS = ("kl", "ce", "mse")
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0]])
LABEL = torch.tensor([3, 2, 0])
SHAPE = ModelShape(2, 8, 2)


def draw(seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(3, 4, generator=generator, dtype=torch.float64)


def plain(kind: str, s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """One example, all of whose answers count."""
    if kind == "mse":
        return (s - t).square().mean()
    s, t = s / temperature, t / temperature
    if kind == "ce":
        return -(t.softmax(0) * s.log_softmax(0)).sum()
    return F.kl_div(s.log_softmax(0), t.softmax(0), reduction="sum") * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 10.0])
@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("kind", KINDS)
def test_soft(kind: str, mask: Tensor | None, temperature: float):
    s, t = draw(0).requires_grad_(), draw(1)
    found = soft_classes(kind, Tap(s), t, mask, temperature)
    rows = [slice(None)] * 3 if mask is None else [row.bool() for row in mask]
    expected = [plain(kind, s[i][real], t[i][real], temperature) for i, real in enumerate(rows)]
    torch.testing.assert_close(found, torch.stack(expected))
    (mine,) = torch.autograd.grad(found.sum(), s)
    (theirs,) = torch.autograd.grad(torch.stack(expected).sum(), s)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_neither_say_nor_gradient(kind: str):
    s, t = draw(0).requires_grad_(), draw(1)
    before = soft_classes(kind, s, t, MASK, 2.0)
    wild = torch.where(MASK.bool(), 0.0, 1e4)
    torch.testing.assert_close(soft_classes(kind, s + wild, t - wild, MASK, 2.0), before)
    (gradient,) = torch.autograd.grad(before.sum(), s)
    assert not gradient[~MASK.bool()].any()
    assert gradient[0].any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_without_answers(kind: str):
    s, nobody = draw(0).requires_grad_(), torch.zeros(3, 4)
    found = soft_classes(kind, s, draw(1), nobody)
    assert found.tolist() == [0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(found.sum(), s)
    assert not gradient.any()


def test_soft_losses_of_single_precision_are_exact_at_high_temperature():
    s, t = draw(0, 0.01).float(), draw(1, 0.01).float()
    found = soft_classes("kl", s, t, None, 20.0)
    assert found.dtype == torch.float32
    expected = soft_classes("kl", s.double(), t.double(), None, 20.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0.0)


def test_hard():
    x = draw(0).requires_grad_()
    torch.testing.assert_close(
        hard_classes(x, LABEL), -x.log_softmax(-1).gather(1, LABEL.unsqueeze(1)).squeeze(1)
    )
    found = hard_classes(Tap(x), LABEL, MASK)
    torch.testing.assert_close(found[1], -x[1, [0, 2]].log_softmax(0)[1])
    assert found[2] == 0.0  # one answer, and it is right
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert not gradient[~MASK.bool()].any()
    wrong = hard_classes(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([[1, 0]]))
    assert wrong.tolist() == [10000.0]  # a label that pads is noticed, and finite


def batch(task: TaskBatch | None) -> Batch:
    text = torch.ones(3, 5, dtype=torch.int64)
    position = torch.ones(3, 2, 5, dtype=torch.int64)
    return Batch(text, position, torch.tensor([1, 1, 1]), text, text.float(), task)


def method(name: str, **options: Any) -> Method:
    cls = method_class(name)
    return cls(cls.Config(**options), SHAPE, SHAPE)


@pytest.mark.parametrize("kind", KINDS)
def test_kd_of_classes(kind: str):
    (part,) = method("kd", of="classes", loss=kind, temperature=4.0).parts(StepContext())
    assert (part.name, part.student, part.teacher) == ("soft", (CLASSES,), (CLASSES,))
    assert part.prediction
    s, t = draw(0), draw(1)
    taps = {CLASSES: Tap(s)}, {CLASSES: Tap(t)}
    found = part.loss(*taps, batch(TaskBatch(LABEL, choice_mask=MASK)))
    torch.testing.assert_close(found, soft_classes(kind, s, t, MASK, 4.0))
    with pytest.raises(ValueError, match=r"needs the batches of a task: set of=tokens"):
        part.loss(*taps, batch(None))


def test_hard_of_classes():
    (part,) = method("hard", of="classes").parts(StepContext())
    assert (part.name, part.student, part.teacher) == ("hard", (CLASSES,), ())
    s = draw(0)
    found = part.loss({CLASSES: Tap(s)}, {}, batch(TaskBatch(LABEL, choice_mask=MASK)))
    torch.testing.assert_close(found, hard_classes(s, LABEL, MASK))


@pytest.mark.parametrize("name", ["kd", "hard"])
def test_what_they_can_be_of(name: str):
    (part,) = method(name).parts(StepContext())
    assert part.student == (("logits", None),)
    with pytest.raises(ValueError, match=f"{name}: of 'answers' is unknown: tokens, classes"):
        method(name, of="answers")


def test_unknown_loss():
    with pytest.raises(ValueError, match="'mae' is unknown: kl, ce, mse"):
        soft_classes("mae", draw(0), draw(1))
