"""Whole steps: micro-batches, layouts and loss scale give the same values and gradients."""

from __future__ import annotations

import pytest

from glmkd_nemo.distill.method import StepContext
from glmkd_nemo.distill.teachers import Teacher
from tests.distill.steps import TERMS, Bench

pytestmark = pytest.mark.timeout(500)
LAYOUTS = (
    "dp2",
    "pp2",
    "pp2_one_by_one",
    "pp2_recompute",
    "pp2_scaled",
    "tp2",
    "tp2_sp",
    "tp2_sp_recompute",
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_does_not_depend_on_the_layout(on_two_ranks: dict[str, list[str]], layout: str):
    assert on_two_ranks[layout] == []


@pytest.mark.usefixtures("alone")
def test_values_are_unweighted_and_their_weighted_sum_is_the_loss():
    bench = Bench(TERMS, sp=False, recompute=None)
    values = bench.run([[0, 1], [2, 3]], StepContext())
    weights = {"layers": 0.5, "soft": 1.0, "logits": 2.0, "hard": 0.25}
    total = sum(weights[name.split("/")[0]] * v for name, v in values.items() if name != "loss")
    assert values["loss"] == pytest.approx(total, rel=1e-12)
    assert {name.split("/")[0] for name in values} == {*weights, "loss"}
    first, second = (bench.run([rows], StepContext()) for rows in ([0, 1], [2, 3]))
    for name, value in values.items():
        assert value == pytest.approx((first[name] + second[name]) / 2, rel=1e-12)


@pytest.mark.usefixtures("alone")
def test_a_teacher_runs_only_in_steps_that_ask_for_it(monkeypatch: pytest.MonkeyPatch):
    terms = {
        "soft": {"method": "kd", "schedule": {"kind": "stage", "until": 0.5}},
        "hard": {"method": "hard"},
    }
    bench = Bench(terms, sp=False, recompute=None)
    calls: list[int] = []
    forward = Teacher.forward

    def counted(self: Teacher, *args: object) -> object:
        calls.append(1)
        return forward(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Teacher, "forward", counted)
    early = bench.run([[0, 1], [2, 3]], StepContext(step=4, max_steps=10))
    assert (sorted(early), len(calls)) == (["hard/hard", "loss", "soft/soft"], 2)
    late = bench.run([[0, 1], [2, 3]], StepContext(step=5, max_steps=10))
    assert (sorted(late), len(calls)) == (["hard/hard", "loss"], 2)
    assert late["loss"] == late["hard/hard"] == early["hard/hard"]


@pytest.mark.usefixtures("alone")
def test_a_teacher_is_frozen_and_in_eval_mode():
    bench = Bench(TERMS, sp=False, recompute=None)
    bench.student.train()
    bench.run([[0, 1]], StepContext())
    teacher = bench.teacher.model
    assert not teacher.training
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(g.any() for g in bench.gradients().values())
