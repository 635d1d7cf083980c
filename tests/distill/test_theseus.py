"""BERT-of-Theseus: how often and by what student layers are replaced, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from glmkd_nemo.distill.method import ModelShape, StepContext
from glmkd_nemo.distill.methods.theseus import Theseus, TheseusConfig

STUDENT, TEACHER = ModelShape(3, 8, 2), ModelShape(7, 8, 4)
SEGMENTS = {0: range(0, 3), 1: range(3, 6), 2: range(6, 7)}


def build(teacher: ModelShape = TEACHER, **options: Any) -> Theseus:
    return Theseus(TheseusConfig(**options), STUDENT, teacher)


def rate(method: Theseus, progress: float, draws: int = 4000) -> float:
    """Share of student layers that are there, over many runs at one point of training."""
    there = sum(
        3 - len(method.replacements(StepContext(step=int(100 * progress), max_steps=100, seed=s)))
        for s in range(draws)
    )
    return there / (3 * draws)


def test_segments():
    assert build().possible_replacements() == SEGMENTS
    assert build().parts(StepContext()) == []


def test_replacements_are_segments_and_leave_a_student_layer():
    method = build(replacing_rate=0.05)
    for step in range(300):
        found = method.replacements(StepContext(step=step, max_steps=10**6))
        assert found.items() <= SEGMENTS.items()
        assert len(found) < 3


@pytest.mark.parametrize(("progress", "p"), [(0.0, 0.3), (0.33, 0.65), (0.5, 0.3 + 0.7 * 50 / 66)])
def test_the_rate_rises_linearly(progress: float, p: float):
    given_that_one_is_there = p / (1 - (1 - p) ** 3)
    assert rate(build(), progress) == pytest.approx(given_that_one_is_there, abs=0.015)


def test_in_the_end_all_student_layers_are_there():
    method = build()
    assert all(not method.replacements(StepContext(step=s, max_steps=100)) for s in range(66, 100))


def test_draws_depend_on_seed_and_step():
    method, other = build(), build()
    contexts = [
        StepContext(step=s, max_steps=1000, seed=seed) for s in range(40) for seed in (1, 2)
    ]
    found = [method.replacements(c) for c in contexts]
    assert found == [other.replacements(c) for c in contexts]
    assert found[0::2] != found[1::2]
    assert len({tuple(f) for f in found}) > 4


def test_several_teachers_take_turns():
    """Terms of several teachers agree on who replaces what; each teacher has its own segments."""
    first, second = build(), build(ModelShape(3, 8, 2))
    first.place, second.place = (0, 2), (1, 2)  # as the objective tells them
    both = only = 0
    for step in range(200):
        context = StepContext(step=step, max_steps=10**6)
        a, b = first.replacements(context), second.replacements(context)
        assert not a.keys() & b.keys()
        assert len(a) + len(b) < 3
        assert all(b[i] == range(i, i + 1) for i in b)
        both += bool(a and b)
        only += bool(a) != bool(b)
    assert both > 10
    assert only > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replacing_rate": 0.0}, "above 0 and at most 1"),
        ({"replacing_rate": 1.5}, "above 0 and at most 1"),
        ({"until": 0.0}, "above 0 and at most 1"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="hidden sizes differ: 8 and 12"):
        build(ModelShape(7, 12, 4))
    with pytest.raises(ValueError, match="teacher has 2 layers"):
        build(ModelShape(2, 8, 4)).possible_replacements()
