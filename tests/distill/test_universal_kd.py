"""Universal-KD: projections, attention over the teacher's layers, KL by its formula, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods.universal_kd import UniversalKD, UniversalKDConfig
from glmkd_nemo.distill.taps import Tap, TapKey

STUDENT, TEACHER = ModelShape(3, 4, 2), ModelShape(5, 6, 2)
NOTHING = Batch(*[torch.zeros(2, 4)] * 5)


def build(
    student: ModelShape = STUDENT, teacher: ModelShape = TEACHER, **options: Any
) -> UniversalKD:
    torch.manual_seed(0)
    return UniversalKD(UniversalKDConfig(**options), student, teacher).double()


def inside(tap: str, layers: int) -> tuple[TapKey, ...]:
    return tuple((tap, i) for i in range(1, layers))


@pytest.mark.parametrize(
    ("options", "student", "teacher"),
    [
        ({}, inside("hidden_first", 3), inside("hidden_first", 5)),
        ({"pooling": "mean"}, inside("hidden_mean", 3), inside("hidden_mean", 5)),
        ({"cg": True}, (("output_first", None),), (("output_first", None),)),
        ({"cg": True, "pooling": "mean"}, (("output_mean", None),), (("output_mean", None),)),
    ],
)
def test_parts(options: dict[str, Any], student: Any, teacher: Any):
    parts = build(**options).parts(StepContext())
    assert [p.name for p in parts] == [f"hidden_states.{i}" for i in range(len(student))]
    assert {(p.student, p.teacher) for p in parts} == {(student, teacher)}


def test_one_projection_per_layer_of_the_students_width_or_another():
    method = build()
    assert [p.weight.shape for p in method.s_fit_dense] == [(4, 4)] * 2
    assert [p.weight.shape for p in method.t_fit_dense] == [(4, 6)] * 4
    method = build(projection_size=3, cg=True)
    assert [tuple(p.shape) for p in method.parameters()] == [(3, 4), (3, 6)]  # no bias


def test_values_and_gradients_of_the_formula():
    method = build(projection_size=3)
    parts = method.parts(StepContext())
    g = torch.Generator().manual_seed(1)
    s = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)  # layer, b, h
    t = torch.randn(4, 3, 6, generator=g, dtype=torch.float64)
    mine = {key: Tap(x) for key, x in zip(parts[0].student, s, strict=True)}
    its = {key: Tap(x) for key, x in zip(parts[0].teacher, t, strict=True)}
    found = torch.stack([p.loss(mine, its, NOTHING) for p in parts])
    expected = formula(method, s, t)
    torch.testing.assert_close(found, expected)
    assert (found > 0).all()
    for parameter in method.parameters():
        ours, theirs = (
            torch.autograd.grad(x.sum(), parameter, retain_graph=True)[0] for x in (found, expected)
        )
        assert float(theirs.norm()) > 0
        torch.testing.assert_close(ours, theirs)


def formula(method: UniversalKD, s: Tensor, t: Tensor) -> Tensor:
    def through(projections: nn.ModuleList, layers: Tensor) -> Tensor:
        pairs = zip(projections, layers, strict=True)
        return torch.stack([x @ projection.weight.T for projection, x in pairs])

    u, v = through(method.s_fit_dense, s), through(method.t_fit_dense, t)
    alpha = torch.einsum("ibd,jbd->ibj", u, v).exp()
    alpha = alpha / alpha.sum(-1, keepdim=True)
    p, q = torch.einsum("ibj,jbd->ibd", alpha, v).softmax(-1), u.softmax(-1)
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "cls"}, "pooling 'cls' is unknown: first, mean"),
        ({"student": ModelShape(1, 4, 2)}, "set cg to true"),
        ({"teacher": ModelShape(1, 6, 2)}, "set cg to true"),
    ],
)
def test_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_the_teacher_may_be_shallower():
    assert len(build(teacher=ModelShape(2, 6, 2)).parts(StepContext())) == 2
