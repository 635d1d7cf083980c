"""Annealing-KD: the squared error of logits, the teacher's scaled up step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.annealing import annealing_factor
from glmkd_nemo.distill.method import Batch, ModelShape, Part, StepContext, TaskBatch
from glmkd_nemo.distill.methods.annealing_kd import AnnealingKD, AnnealingKDConfig
from glmkd_nemo.distill.taps import Tap
from glmkd_nemo.models.logits import Logits

LOGITS, CLASSES = ("logits", None), ("classes", None)
LABELS = torch.tensor([[3, 1, 0, 2], [1, 4, 0, 0]])
TARGET = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
SHAPE = ModelShape(2, 8, 2)
pytestmark = pytest.mark.usefixtures("alone")


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def head(logits: Tensor) -> Logits:
    """A head that gives these logits ``[b, s, V]``."""
    unit = torch.eye(logits.shape[-1], dtype=logits.dtype)
    return Logits(logits.transpose(0, 1), unit, logits.shape[-1], sequence_parallel=False)


def batch(task: TaskBatch | None = None) -> Batch:
    ids, positions, sep = torch.ones(2, 4), torch.zeros(2, 2, 4), torch.ones(2)
    return Batch(ids, positions, sep, LABELS, TARGET, task)


def part(step: int = 0, **options: Any) -> Part:
    method = AnnealingKD(AnnealingKDConfig(**options), SHAPE, SHAPE)
    (found,) = method.parts(StepContext(step=step, max_steps=100))
    assert (found.name, found.prediction) == ("soft", True)
    return found


def test_the_factor_is_a_staircase_up_to_1():
    # the values that GLMKD logs at these iterations of 100
    logged = {0: 1 / 7, 14: 1 / 7, 15: 2 / 7, 50: 4 / 7, 60: 5 / 7, 99: 1.0, 100: 1.0}
    for iteration, factor in logged.items():
        assert annealing_factor(iteration / 100, 7.0) == pytest.approx(factor, abs=1e-12)
    steps = [annealing_factor(i / 1000, 4.0) for i in range(1000)]
    assert sorted(set(steps)) == steps[::250] == [0.25, 0.5, 0.75, 1.0]
    assert annealing_factor(0.0, 1.0) == 1.0


@pytest.mark.parametrize("mask", ["target", "pad_labels", "none"])
def test_tokens(mask: str):
    s, t = draw(2, 4, 5, seed=0), draw(2, 4, 5, seed=1)
    where = {"target": TARGET, "pad_labels": LABELS > 0, "none": torch.ones(2, 4)}[mask]
    found = part(60, mask=mask).loss({LOGITS: head(s)}, {LOGITS: head(t)}, batch())
    expected = ((s - t * 5 / 7) * where.unsqueeze(-1)).square().mean((1, 2))
    torch.testing.assert_close(found, expected)


def test_classes_leave_out_answers_that_only_pad():
    s, t = draw(2, 3, seed=2), draw(2, 3, seed=3)
    task = TaskBatch(label=torch.tensor([2, 0]), choice_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))
    found = part(60, of="classes").loss({CLASSES: Tap(s)}, {CLASSES: Tap(t)}, batch(task))
    error = (s - t * 5 / 7).square()
    torch.testing.assert_close(found, torch.stack([error[0].mean(), error[1, :2].mean()]))


def test_the_taps_are_those_asked_for():
    assert (part().student, part().teacher) == ((LOGITS,), (LOGITS,))
    assert part(of="classes").student == (CLASSES,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_t": 0.5}, "annealing_kd: max_t 0.5 must be at least 1"),
        ({"mask": "pad"}, "annealing_kd: mask 'pad' is unknown: target, pad_labels"),
        ({"of": "answers"}, "annealing_kd: of 'answers' is unknown: tokens, classes"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        part(**options)
