"""ERDistill: which states meet, relations by their formulas, under which head, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.embedding_relations import global_relation
from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods.erdistill import ERDistill, ERDistillConfig
from glmkd_nemo.distill.taps import Tap, TapKey
from glmkd_nemo.models.logits import Logits

LOGITS, FINAL = ("logits", None), ("output", None)
STUDENT, TEACHER = ModelShape(2, 4, 2), ModelShape(4, 6, 2)
NOTHING = Batch(*[torch.zeros(2, 5)] * 5)
pytestmark = pytest.mark.usefixtures("alone")


def build(
    student: ModelShape = STUDENT, teacher: ModelShape = TEACHER, **options: Any
) -> ERDistill:
    return ERDistill(ERDistillConfig(**options), student, teacher)


def pairs(method: ERDistill) -> list[tuple[TapKey, TapKey]]:
    parts = [p for p in method.parts(StepContext()) if p.name.startswith("local")]
    assert [p.name for p in parts] == [f"local.{i}" for i in range(len(parts))]
    return [(p.student[0], p.teacher[0]) for p in parts]


def hidden(i: int) -> TapKey:
    return ("hidden", i)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", [(hidden(0), hidden(0)), (hidden(1), hidden(2)), (FINAL, FINAL)]),
        ("two", [(hidden(1), hidden(2)), (FINAL, FINAL)]),
        ("one", [(FINAL, FINAL)]),
        ("1plus", [(hidden(1), FINAL), (FINAL, FINAL)]),
    ],
)
def test_states_that_meet(layers: str, expected: list[Any]):
    assert pairs(build(layers=layers)) == expected


def test_uneven_depths_drop_the_rest():
    uneven = ModelShape(3, 4, 2), ModelShape(4, 6, 2)
    assert pairs(build(*uneven))[-1] == (FINAL, hidden(3))
    assert pairs(build(*uneven, layers="two"))[-1] == (FINAL, FINAL)


def test_the_first_of_1plus_counts_a_tenth():
    weights = {p.name: p.weight for p in build(layers="1plus").parts(StepContext())}
    assert weights == {"local.0": 0.1, "local.1": 1.0, "global.0": 0.1, "global.1": 1.0}
    assert {p.weight for p in build().parts(StepContext())} == {1.0}


def test_global_parts_read_the_heads_too():
    (part,) = build(layers="one", local_relations=False).parts(StepContext())
    assert (part.name, part.student, part.teacher) == ("global.0", (FINAL, LOGITS), (FINAL, LOGITS))
    assert [p.name for p in build(layers="one", global_relations=False).parts(StepContext())] == [
        "local.0"
    ]


def random(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_values_and_gradients_of_the_formulas(loss: str):
    """Three samples of five positions; seven tokens, and one row that pads the vocabulary."""
    s, t = random(3, 5, 4, seed=1).requires_grad_(), random(3, 5, 6, seed=2)
    w, v = random(8, 4, seed=3).requires_grad_(), random(8, 6, seed=4)
    other = random(5, 3, 4, seed=5)  # the head's own input plays no part
    student = {FINAL: Tap(s), LOGITS: Logits(other, w, 7, False)}
    teacher = {FINAL: Tap(t), LOGITS: Logits(random(5, 3, 6, seed=6), v, 7, False)}
    parts = {p.name: p.loss for p in build(layers="one", loss=loss).parts(StepContext())}
    inner = [x @ x.mT for x in (s, t)]
    outer = [x @ y[:7].T for x, y in ((s, w), (t, v))]
    if loss == "mse":
        expected = (inner[0] / 5 - inner[1] / 5).square().mean((1, 2))
        expected_global = (outer[0] - outer[1]).square().mean((1, 2))
    else:
        expected = divergence(inner[0] / 5**0.5, inner[1] / 5**0.5)
        expected_global = divergence(*outer)
    for name, x in (("local.0", expected), ("global.0", expected_global)):
        found = parts[name](student, teacher, NOTHING)
        torch.testing.assert_close(found, x)
        for leaf in (s,) if name == "local.0" else (s, w):
            ours, theirs = (
                torch.autograd.grad(y.sum(), leaf, retain_graph=True)[0] for y in (found, x)
            )
            torch.testing.assert_close(ours, theirs)


def test_global_relations_of_a_student_near_its_teacher():
    """The three sums of squares cancel but for a part in 10^6 in fp32 models."""
    y, v = random(2, 5, 4, seed=1), random(8, 4, seed=2)
    x = (y + 1e-3 * random(2, 5, 4, seed=3)).float().requires_grad_()
    w = (v + 1e-3 * random(8, 4, seed=4)).float().requires_grad_()
    y, v = y.float(), v.float()
    other = torch.zeros(5, 2, 4)
    found = global_relation(
        "mse", Tap(x), Logits(other, w, 7, False), Tap(y), Logits(other, v, 7, False)
    )
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, w)]
    expected = (exact[0] @ exact[1][:7].T - (y.double() @ v[:7].double().T)).square().mean((1, 2))
    torch.testing.assert_close(found, expected.float())
    found.sum().backward()
    expected.sum().backward()
    for ours, theirs in zip((x, w), exact, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad.float())


def divergence(s: Tensor, t: Tensor) -> Tensor:
    log_q = s.log_softmax(-1)
    return F.kl_div(log_q, t.softmax(-1), reduction="none").sum(-1).mean(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "ce"}, "loss 'ce' is unknown: mse, kl"),
        ({"layers": "last"}, "layers 'last' is unknown: all, one, two, 1plus"),
        ({"local_relations": False, "global_relations": False}, "set local_relations or global"),
        ({"teacher": ModelShape(1, 6, 2)}, "teacher has 1 layers, the student 2"),
    ],
)
def test_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(**options)
