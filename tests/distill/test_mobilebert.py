"""MobileBERT: which layers have joined in which step, their weights, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods.mobilebert import MobileBERT, MobileBERTConfig
from glmkd_nemo.distill.taps import Tap

STUDENT, TEACHER = ModelShape(2, 8, 2), ModelShape(5, 8, 2)
OUTPUT = ("output", None)
pytestmark = pytest.mark.usefixtures("alone")


def build(teacher: ModelShape = TEACHER, **options: Any) -> MobileBERT:
    return MobileBERT(MobileBERTConfig(**options), STUDENT, teacher)


def weights(method: MobileBERT, step: int) -> dict[str, float]:
    return {p.name: p.weight for p in method.parts(StepContext(step, 100))}


FIRST = {"attention_scores.0": 1.0, "hidden_states.0": 0.1, "hidden_states.1": 1.0}
SECOND = {
    "attention_scores.0": 0.1,
    "attention_scores.1": 1.0,
    "hidden_states.0": 0.1,
    "hidden_states.1": 0.1,
    "hidden_states.2": 1.0,
}
THIRD = dict.fromkeys(SECOND, 1.0)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, FIRST), (34, FIRST), (35, SECOND), (67, SECOND), (68, THIRD)]
)
def test_lower_layers_count_less_until_all_have_joined(step: int, expected: dict[str, float]):
    method = build()
    assert weights(method, step) == expected
    assert method.done(StepContext(step, 100)) == (expected is THIRD)


def test_steps_of_its_own():
    method = build(steps=50, lower_weight=0.25)
    assert [len(weights(method, step)) for step in (17, 18, 34, 35)] == [3, 5, 5, 5]
    assert [method.done(StepContext(step, 100)) for step in (34, 35)] == [False, True]
    assert weights(method, 18)["hidden_states.0"] == 0.25


def test_keys():
    keys = {p.name: (p.student[0], p.teacher[0]) for p in build().possible_parts()}
    assert keys == {
        "attention_scores.0": (("scores", 0), ("scores", 2)),
        "attention_scores.1": (("scores", 1), ("scores", 4)),
        "hidden_states.0": (("hidden", 0), ("hidden", 0)),
        "hidden_states.1": (("hidden", 1), ("hidden", 3)),
        "hidden_states.2": (OUTPUT, OUTPUT),
    }


def test_values():
    g = torch.Generator().manual_seed(0)
    parts = {p.name: p for p in build().parts(StepContext())}
    batch = Batch(*[torch.zeros(2, 4)] * 5)
    s, t = (torch.randn(2, 4, 8, generator=g, dtype=torch.float64) for _ in range(2))
    found = parts["hidden_states.1"].loss({("hidden", 1): Tap(s)}, {("hidden", 3): Tap(t)}, batch)
    torch.testing.assert_close(found, (s - t).square().mean((1, 2)))
    s, t = (torch.randn(2, 2, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    found = parts["attention_scores.0"].loss(
        {("scores", 0): Tap(s)}, {("scores", 2): Tap(t)}, batch
    )
    kl = F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(found, kl.mean((1, 2)))


@pytest.mark.parametrize("other", [ModelShape(5, 12, 2), ModelShape(5, 8, 4)])
def test_other_sizes_are_refused(other: ModelShape):
    with pytest.raises(ValueError, match="MobileBERT compares hidden states and attention"):
        build(other)
