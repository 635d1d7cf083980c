"""Hard losses on the answers of a task: formulas, padding, gradients, the method's option."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.class_losses import CHOICE_LOSSES, choice_loss, hard_classes
from glmkd_nemo.distill.method import Batch, ModelShape, StepContext, TaskBatch
from glmkd_nemo.distill.methods.hard import Hard, HardConfig
from glmkd_nemo.distill.taps import Tap

MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0]])
LABEL = torch.tensor([3, 2, 0])
SHAPE = ModelShape(2, 8, 2)
WEIGHT = 0.5


def draw(seed: int) -> Tensor:
    """Log-probabilities of four texts: they need not add up to 1."""
    generator = torch.Generator().manual_seed(seed)
    return -0.1 - 3.0 * torch.rand(3, 4, generator=generator, dtype=torch.float64)


def plain(kind: str, x: Tensor, y: int) -> Tensor:
    """One example ``x [c]``, all of whose answers count."""
    others = [k for k in range(len(x)) if k != y]
    nothing = x.new_zeros(())
    if kind == "cross_entropy":
        return -x.log_softmax(0)[y]
    if kind == "hinge":
        return sum((torch.clamp(1 + x[k] - x[y], min=0) for k in others), nothing)
    if kind == "generative":
        return -x[y]
    if kind == "mix":
        return -x.log_softmax(0)[y] - WEIGHT * x[y]
    if kind == "adapet":
        return sum((x[k] for k in others), -x[y])
    target = F.one_hot(torch.tensor(y), len(x)).to(x.dtype)
    return F.binary_cross_entropy(x.exp(), target, reduction="sum")


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("kind", CHOICE_LOSSES)
def test_formula(kind: str, mask: Tensor | None):
    x = draw(0).requires_grad_()
    found = choice_loss(kind, Tap(x), LABEL, mask, WEIGHT)
    assert found.shape == (3,)
    rows = [torch.ones(4, dtype=torch.bool)] * 3 if mask is None else list(mask.bool())
    expected = torch.stack(
        [plain(kind, x[i][row], int(row[: LABEL[i]].sum())) for i, row in enumerate(rows)]
    )
    torch.testing.assert_close(found, expected)
    (mine,) = torch.autograd.grad(found.sum(), x)
    (theirs,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", CHOICE_LOSSES)
def test_gradient(kind: str):
    x = draw(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: choice_loss(kind, x, LABEL, MASK, WEIGHT), (x,))


@pytest.mark.parametrize("kind", CHOICE_LOSSES)
def test_padding_has_neither_say_nor_gradient(kind: str):
    x = draw(2).requires_grad_()
    before = choice_loss(kind, x, LABEL, MASK)
    wild = torch.where(MASK.bool(), 0.0, 1e4)
    torch.testing.assert_close(choice_loss(kind, x + wild, LABEL, MASK), before)
    wider, one_more = F.pad(x, (0, 1), value=7.0), F.pad(MASK, (0, 1))
    torch.testing.assert_close(choice_loss(kind, wider, LABEL, one_more), before)
    (gradient,) = torch.autograd.grad(before.sum(), x)
    assert not gradient[~MASK.bool()].any()
    assert torch.isfinite(gradient).all()


def test_numbers_of_the_original_formulas():
    """As the original code computes them, written out for one batch of two examples."""
    x = torch.tensor([[-1.0, -0.5, -4.0], [-2.0, -1.0, -3.0]])
    y = torch.tensor([0, 1])
    hinge = (1 + x - x[range(2), y].unsqueeze(1)).clamp(min=0).sum(1).mean() - 1.0
    assert choice_loss("hinge", x, y).mean() == hinge == 0.75
    signs = torch.tensor([[-1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])
    assert choice_loss("adapet", x, y).mean() == (x * signs).sum() / 2 == -3.75
    mix = F.cross_entropy(x, y) - x[range(2), y].mean()
    torch.testing.assert_close(choice_loss("mix", x, y).mean(), mix)


def test_half_precision_is_computed_in_single():
    x = draw(0).to(torch.bfloat16)
    for kind in CHOICE_LOSSES:
        found = choice_loss(kind, x, LABEL, MASK)
        torch.testing.assert_close(found, choice_loss(kind, x.float(), LABEL, MASK))
        assert found.dtype == torch.float32


def test_an_answer_that_is_certain():
    x = torch.tensor([[0.0, -30.0]], requires_grad=True)
    right, wrong = (choice_loss("decoupled", x, torch.tensor([y])) for y in (0, 1))
    assert right.item() == pytest.approx(0.0, abs=1e-6)
    assert 40.0 < wrong.item() < 50.0  # 30 for the right answer, and as much as fp32 can tell
    (gradient,) = torch.autograd.grad((right + wrong).sum(), x)
    assert torch.isfinite(gradient).all()


def test_unknown_loss():
    with pytest.raises(ValueError, match="'svm' is unknown: cross_entropy, hinge"):
        choice_loss("svm", draw(0), LABEL)


@pytest.mark.parametrize("kind", CHOICE_LOSSES)
def test_option_of_hard(kind: str):
    config = HardConfig(of="classes", loss=kind, generative_weight=WEIGHT)
    (part,) = Hard(config, SHAPE, None).parts(StepContext())
    text = torch.ones(3, 5, dtype=torch.int64)
    position = torch.ones(3, 2, 5, dtype=torch.int64)
    task = TaskBatch(LABEL, choice_mask=MASK)
    batch = Batch(text, position, torch.tensor([1, 1, 1]), text, text.float(), task)
    found = part.loss({("classes", None): Tap(draw(0))}, {}, batch)
    torch.testing.assert_close(found, choice_loss(kind, draw(0), LABEL, MASK, WEIGHT))
    if kind == "cross_entropy":
        assert torch.equal(found, hard_classes(draw(0), LABEL, MASK))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "classes", "loss": "svm"}, "hard: loss 'svm' is unknown: cross_entropy, hinge"),
        ({"loss": "hinge"}, "hard: loss=hinge is of answers: set of=classes"),
        ({"of": "classes", "generative_weight": -1.0}, "generative_weight -1.0 must not be below"),
    ],
)
def test_what_hard_refuses(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Hard(HardConfig(**options), SHAPE, None)
