"""RAIL-KD: which layers meet, when they are drawn anew, both forms by their formulas, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods.rail_kd import RailKD, RailKDConfig
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.taps import Tap, TapKey
from glmkd_nemo.distill.terms import term_from_dict

STUDENT, TEACHER = ModelShape(3, 4, 2), ModelShape(7, 6, 2)
NOTHING = Batch(*[torch.zeros(2, 4)] * 5)
FINAL = ("output_mean", None)


def build(student: ModelShape = STUDENT, teacher: ModelShape = TEACHER, **options: Any) -> RailKD:
    torch.manual_seed(0)
    config = RailKDConfig(**{"projection_size": 5, **options})
    return RailKD(config, student, teacher).double()


def mean(*layers: int) -> list[TapKey]:
    return [("hidden_mean", i) for i in layers]


def keys(method: RailKD, context: StepContext | None = None) -> tuple[list[TapKey], list[TapKey]]:
    (part,) = method.parts(context or StepContext())
    assert part.name == "hidden_states"
    return list(part.student), list(part.teacher)


def vectors(layers: list[TapKey], width: int, seed: int) -> dict[TapKey, Tap]:
    g = torch.Generator().manual_seed(seed)
    return {k: Tap(torch.randn(3, width, generator=g, dtype=torch.float64)) for k in layers}


def test_regular_layers_are_every_second_of_seven():
    assert keys(build(random_layers=False)) == (mean(1, 2), mean(2, 4))
    ends = {"embedding": True, "final": True, "random_layers": False}
    assert keys(build(**ends)) == ([*mean(0, 1, 2), FINAL], [*mean(0, 2, 4), FINAL])


@pytest.mark.parametrize(
    ("options", "at"),
    [
        ({"random_every_epochs": 2}, lambda turn, late: StepContext(epoch=2 * turn + late)),
        (
            {"random_every_epochs": 0, "random_every_steps": 10},
            lambda turn, late: StepContext(step=10 * turn + 9 * late, epoch=turn % 3),
        ),
    ],
)
def test_layers_are_drawn_sorted_once_per_period(options: dict[str, int], at: Any):
    method = build(**options)
    drawn = [keys(method, at(turn, 0))[1] for turn in range(60)]
    assert drawn == [keys(method, at(turn, 1))[1] for turn in range(60)]
    assert all(layers == sorted(layers) and len(set(layers)) == 2 for layers in drawn)
    assert {key for layers in drawn for key in layers} == set(mean(1, 2, 3, 4, 5, 6))
    possible = {key for part in method.possible_parts() for key in part.teacher}
    assert possible == set(mean(1, 2, 3, 4, 5, 6))


def test_the_draw_depends_on_the_seed():
    seen = {tuple(keys(build(), StepContext(seed=seed))[1]) for seed in range(20)}
    assert len(seen) > 3


def test_teachers_of_one_term_are_drawn_from_independently_and_share_the_students_projection():
    terms = {"x": term_from_dict("x", {"method": "rail_kd"}, ["t0", "t1"], aggregated=True)}
    teachers = {"t0": TEACHER, "t1": TEACHER}
    objective = Objective(terms, STUDENT, teachers, aggregator={"name": "mean"})
    first, second = objective.methods["x@t0"], objective.methods["x@t1"]
    assert first.s_fit_dense is second.s_fit_dense
    assert first.t_fit_dense is not second.t_fit_dense
    drawn = [[keys(m, StepContext(epoch=e))[1] for e in range(20)] for m in (first, second)]
    assert drawn[0] != drawn[1]


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("concatenated", [True, False])
def test_the_loss_is_summed_over_batch_layers_and_width(concatenated: bool):
    method = build(concatenated=concatenated, final=True, random_layers=False)
    (part,) = method.parts(StepContext())
    s, t = vectors(list(part.student), 4, 1), vectors(list(part.teacher), 6, 2)
    found = part.loss(s, t, NOTHING)
    assert found.shape == (3,)
    rows = [
        [taps[key].value for key in order] for taps, order in ((s, part.student), (t, part.teacher))
    ]
    if concatenated:
        rows = [[torch.cat(layers, 1)] for layers in rows]
    expected = sum(
        (unit(method.s_fit_dense(x)) - unit(method.t_fit_dense(y))).square().sum()
        for x, y in zip(*rows, strict=True)
    )
    torch.testing.assert_close(found.mean(), expected)


def test_projections_are_as_wide_as_asked_and_both_learn():
    method = build(random_layers=False)
    assert method.s_fit_dense.weight.shape == (5, 2 * 4)
    assert method.t_fit_dense.weight.shape == (5, 2 * 6)
    assert build(concatenated=False).t_fit_dense.weight.shape == (5, 6)
    (part,) = method.parts(StepContext())
    s, t = vectors(list(part.student), 4, 1), vectors(list(part.teacher), 6, 2)
    part.loss(s, t, NOTHING).mean().backward()
    assert all(float(p.grad.norm()) > 0 for p in method.parameters())


def test_a_teacher_of_another_precision():
    method = build(random_layers=False)
    (part,) = method.parts(StepContext())
    s, t = vectors(list(part.student), 4, 1), vectors(list(part.teacher), 6, 2)
    half = {key: Tap(tap.value.bfloat16()) for key, tap in t.items()}
    same = {key: Tap(tap.value.double()) for key, tap in half.items()}
    torch.testing.assert_close(part.loss(s, half, NOTHING), part.loss(s, same, NOTHING))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_every_epochs": 0, "random_every_steps": 0}, "must be above 0"),
        ({"student": ModelShape(1, 4, 2)}, "set embedding or final to true"),
        ({"teacher": ModelShape(2, 6, 2)}, "teacher has 2 layers, the student 3"),
    ],
)
def test_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_one_layer_with_its_ends():
    method = build(ModelShape(1, 4, 2), embedding=True, final=True)
    assert keys(method) == ([*mean(0), FINAL], [*mean(0), FINAL])
