"""ALP-KD: each student layer against the attention-weighted mean of all teacher layers."""

from __future__ import annotations

import pytest
import torch

from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods.alp_kd import AlpKD, AlpKDConfig
from glmkd_nemo.distill.taps import Tap, TapKey
from glmkd_nemo.distill.terms import term_from_dict

STUDENT, TEACHER = ModelShape(3, 4, 2), ModelShape(5, 4, 2)
NOTHING = Batch(*[torch.zeros(2, 4)] * 5)
pytestmark = pytest.mark.usefixtures("alone")


def build(student: ModelShape = STUDENT, teacher: ModelShape = TEACHER) -> AlpKD:
    return AlpKD(AlpKDConfig(), student, teacher)


def first(layers: int) -> tuple[TapKey, ...]:
    return (*(("hidden_first", i) for i in range(1, layers)), ("output_first", None))


def test_every_part_reads_all_layers_so_that_one_stage_has_them():
    parts = build().parts(StepContext())
    assert [p.name for p in parts] == ["hidden_states.0", "hidden_states.1", "hidden_states.2"]
    assert {(p.student, p.teacher) for p in parts} == {(first(3), first(5))}


def test_values_and_gradients_of_the_formula():
    g = torch.Generator().manual_seed(0)
    s = torch.randn(3, 3, 4, generator=g, dtype=torch.float64).requires_grad_()  # layer, b, h
    t = torch.randn(5, 3, 4, generator=g, dtype=torch.float64)
    mine = {key: Tap(x) for key, x in zip(first(3), s, strict=True)}
    its = {key: Tap(x) for key, x in zip(first(5), t, strict=True)}
    found = torch.stack([p.loss(mine, its, NOTHING) for p in build().parts(StepContext())])
    alpha = torch.einsum("ibh,jbh->bij", s, t).exp()
    alpha = alpha / alpha.sum(-1, keepdim=True)
    expected = (s - torch.einsum("bij,jbh->ibh", alpha, t)).square().mean(-1)
    torch.testing.assert_close(found, expected)
    ours, theirs = (
        torch.autograd.grad(x.sum(), s, retain_graph=True)[0] for x in (found, expected)
    )
    torch.testing.assert_close(ours, theirs)


def test_models_of_one_layer_compare_their_outputs():
    (part,) = build(ModelShape(1, 4, 2), ModelShape(1, 4, 2)).parts(StepContext())
    x, y = torch.ones(2, 4), torch.zeros(2, 4)
    key = ("output_first", None)
    assert part.loss({key: Tap(x)}, {key: Tap(y)}, NOTHING).tolist() == [1.0, 1.0]


def test_widths_have_to_be_equal():
    with pytest.raises(ValueError, match=r"student is 4 wide and the teacher 6: use universal_kd"):
        build(teacher=ModelShape(5, 6, 2))


def test_the_option_without_effect_does_not_exist():
    with pytest.raises(ValueError, match="no key 'alp_kd_lambda'"):
        term_from_dict("x", {"method": "alp_kd", "alp_kd_lambda": 0.2}, ["t0"])
