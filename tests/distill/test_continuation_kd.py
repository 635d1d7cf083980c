"""Continuation-KD: annealed soft labels that give way to hard ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmkd_nemo.distill.method import Part, StepContext, TaskBatch
from glmkd_nemo.distill.methods.continuation_kd import ContinuationKD, ContinuationKDConfig
from glmkd_nemo.distill.taps import Tap
from tests.distill.test_annealing_kd import (
    CLASSES,
    LABELS,
    LOGITS,
    SHAPE,
    TARGET,
    batch,
    draw,
    head,
)

pytestmark = pytest.mark.usefixtures("alone")


def build(**options: Any) -> ContinuationKD:
    return ContinuationKD(ContinuationKDConfig(**options), SHAPE, SHAPE)


def parts_at(step: int, **options: Any) -> dict[str, Part]:
    parts = build(**options).parts(StepContext(step=step, max_steps=100))
    assert all(part.prediction for part in parts)
    return {part.name: part for part in parts}


@pytest.mark.parametrize(
    ("step", "psi"), [(0, 0.0), (1, 0.01 / 1.333), (30, 0.3 / 1.333), (66, 0.66 / 1.333)]
)
def test_hard_labels_grow(step: int, psi: float):
    weights = {name: part.weight for name, part in parts_at(step).items()}
    expected = {"soft": 1 - psi, "hard": psi} if psi else {"soft": 1.0}
    assert weights == pytest.approx(expected)


def test_in_the_end_hard_labels_stand_alone_and_no_teacher_is_asked():
    for step in (67, 90, 100):
        (hard,) = parts_at(step).values()
        assert (hard.name, hard.weight, hard.teacher) == ("hard", 1.0, ())


def test_layers_are_placed_for_both():
    assert [part.name for part in build().possible_parts()] == ["soft", "hard"]


def test_samples_below_the_margin_do_not_count():
    s, t, factor = draw(3, 4, 5, seed=0).requires_grad_(), draw(3, 4, 5, seed=1), 0.4
    with torch.no_grad():
        s[1] = t[1] * factor + 0.01
    error = (s - t * factor).square().mean((1, 2))
    margin = (error[0] - 0.1).item() / factor
    assert error[0] < error[2]
    soft = parts_at(30, mask="none", margin=margin)["soft"]
    whole = batch()
    three = type(whole)(torch.ones(3, 4), *[torch.zeros(3, 4)] * 4)
    found = soft.loss({LOGITS: head(s)}, {LOGITS: head(t)}, three)
    torch.testing.assert_close(found, error * torch.tensor([1.0, 0.0, 1.0]))
    found.sum().backward()
    assert s.grad is not None
    assert [bool(g.any()) for g in s.grad] == [True, False, True]


def test_hard_labels_of_tokens():
    s = draw(2, 4, 5, seed=2)
    found = parts_at(30)["hard"].loss({LOGITS: head(s)}, {}, batch())
    expected = F.cross_entropy(s[TARGET.bool()], LABELS[TARGET.bool()])
    torch.testing.assert_close(found.mean(), expected)


def test_classes():
    s, t, label = draw(2, 3, seed=3), draw(2, 3, seed=4), torch.tensor([2, 0])
    parts, answers = parts_at(30, of="classes", margin=0.0), batch(TaskBatch(label))
    found = parts["soft"].loss({CLASSES: Tap(s)}, {CLASSES: Tap(t)}, answers)
    torch.testing.assert_close(found, (s - 0.4 * t).square().mean(1))
    found = parts["hard"].loss({CLASSES: Tap(s)}, {}, answers)
    torch.testing.assert_close(found, F.cross_entropy(s, label, reduction="none"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_t": 0.0}, "continuation_kd: max_t 0.0 must be at least 1"),
        ({"mask": "b"}, "continuation_kd: mask 'b' is unknown"),
        ({"of": "b"}, "continuation_kd: of 'b' is unknown"),
        ({"hard_after": 1.2}, "hard_after <= psi_denominator"),
        ({"psi_denominator": 0.5}, "hard_after <= psi_denominator"),
        ({"hard_after": 0.0, "psi_denominator": 0.0}, "0 < hard_after"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(**options)
