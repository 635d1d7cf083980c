"""PKD against its formula written plainly, its pairs of layers, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.layer_choice import skip_states
from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.taps import Tap
from glmkd_nemo.replay.flags import Setting, translation_of

BATCH = Batch(*[torch.zeros(2, 3)] * 5)
pytestmark = pytest.mark.usefixtures("alone")


def method(student: tuple[int, int] = (3, 4), teacher: tuple[int, int] = (6, 4), **options: Any):
    cls = method_class("pkd")
    shapes = ModelShape(*student, heads=2), ModelShape(*teacher, heads=2)
    return cls(cls.Config(**options), *shapes).double()


def pairs(m: Any) -> dict[str, tuple[Any, Any]]:
    return {p.name: (p.student[0], p.teacher[0]) for p in m.parts(StepContext())}


def normal(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def test_the_recipe_compares_the_first_position_of_inner_layers():
    assert pairs(method()) == {
        "hidden_states.0": (("hidden_first", 1), ("hidden_first", 2)),
        "hidden_states.1": (("hidden_first", 2), ("hidden_first", 4)),
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"embedding": True}, [("hidden", 0), ("hidden", 1), ("hidden", 2)]),
        ({"final": True}, [("hidden", 1), ("hidden", 2), ("output", None)]),
        (
            {"embedding": True, "final": True},
            [*[("hidden", i) for i in range(3)], ("output", None)],
        ),
    ],
)
def test_embedding_and_final(options: dict[str, bool], expected: list[Any]):
    found = pairs(method(only_cls=False, **options))
    assert [student for student, _ in found.values()] == expected
    assert list(found) == [f"hidden_states.{i}" for i in range(len(expected))]


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (6, 3, [0, 2, 4, 6]),
        (4, 3, [0, 1, 2, 3]),  # recorded: the student's final state meets layer 3 of 4
        (11, 4, [0, 2, 4, 6, 8]),
        (5, 2, [0, 2, 5]),  # as many steps fit into the teacher as the student has layers
        (7, 3, [0, 2, 4, 7]),
        (4, 1, [0, 4]),
    ],
)
def test_states_of_uneven_depths(teacher: int, student: int, expected: list[int]):
    """As the reference pairs its list ``range(0, t + 1, t // s)``, its last entry made final."""
    states = list(range(0, teacher + 1, teacher // student))
    listed = [*states[:-1], teacher][: student + 1]
    assert skip_states(teacher, student) == expected == listed


def test_final_meets_an_inner_layer_where_the_rest_is_dropped():
    found = pairs(method(teacher=(4, 4), final=True, only_cls=False))
    assert found["hidden_states.2"] == (("output", None), ("hidden", 3))
    found = pairs(method(student=(2, 4), teacher=(5, 4), final=True))
    assert found["hidden_states.1"] == (("output_first", None), ("output_first", None))


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4)])
@pytest.mark.parametrize("normalize", [True, False])
def test_loss(shape: tuple[int, ...], normalize: bool):
    part = method(normalize=normalize, only_cls=len(shape) == 2).parts(StepContext())[0]
    s, t = normal(*shape, seed=0), normal(*shape, seed=1)
    found = part.loss({part.student[0]: Tap(s)}, {part.teacher[0]: Tap(t)}, BATCH)
    if normalize:
        s, t = (x / x.square().sum(-1, keepdim=True).sqrt() for x in (s, t))
    expected = torch.stack([(a - b).square().mean() for a, b in zip(s, t, strict=True)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_projection_to_the_size_of_the_other(side: str):
    m = method(teacher=(6, 10), project=side)
    part = m.parts(StepContext())[0]
    s, t = normal(2, 4, seed=0), normal(2, 10, seed=1)
    found = part.loss({part.student[0]: Tap(s)}, {part.teacher[0]: Tap(t)}, BATCH)
    w, b = m.fit_dense.weight, m.fit_dense.bias
    s, t = (s @ w.T + b, t) if side == "student" else (s, t @ w.T + b)
    s, t = (x / x.norm(dim=-1, keepdim=True) for x in (s, t))
    torch.testing.assert_close(found, (s - t).square().mean(1))
    found.sum().backward()
    assert bool(w.grad.any())


def test_teacher_of_another_precision():
    m = method(teacher=(6, 10), project="teacher", fix_layernorm=True).float()
    part = m.parts(StepContext())[0]
    s, t = normal(2, 4, seed=0).float(), normal(2, 10, seed=1).bfloat16()
    found = part.loss({part.student[0]: Tap(s)}, {part.teacher[0]: Tap(t)}, BATCH)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": (6, 10)}, "4 dimensions and the teacher's 10: set project=student or"),
        ({"project": "both"}, "'both' is unknown: none, student, teacher"),
        ({"student": (1, 4)}, "one layer needs embedding=true or final=true"),
    ],
)
def test_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        method(**arguments)


def test_a_shallow_teacher_is_refused():
    with pytest.raises(ValueError, match="teacher has 2 layers, the student 3"):
        method(teacher=(2, 4)).parts(StepContext())


def test_translation_of_the_original_options():
    """alpha mixes soft and hard labels, beyond their own rates; beta weighs hidden states."""
    flags = {"pkd_alpha": "0.7", "pkd_beta": "500", "pkd_only_cls": True, "pkd_wo_final": True}
    given = {"soft": {"method": "kd", "weight": 0.5}, "hard": {"method": "hard"}}
    found = translation_of("pkd").terms(flags, Setting("ft_multi", 6, (12,)), given)
    weights = {name: term["weight"] for name, term in found.items()}
    assert weights == pytest.approx({"soft": 0.35, "hard": 0.3, "pkd": 500.0})
    assert found["pkd"]["only_cls"] is True
    assert found["pkd"]["final"] is found["pkd"]["normalize"] is found["pkd"]["embedding"] is False
    only_soft = translation_of("pkd").terms({"pkd_alpha": "1"}, Setting("pt", 6, (12,)), given)
    assert only_soft.keys() == {"soft", "pkd"}
