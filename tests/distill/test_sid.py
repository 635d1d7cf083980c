"""SID: which layers have joined in which step, what they are compared by, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmkd_nemo.distill.method import Batch, ModelShape, Part, StepContext
from glmkd_nemo.distill.methods.sid import SID, SIDConfig
from glmkd_nemo.distill.progress import share_is_over, stage_at
from glmkd_nemo.distill.taps import Tap

STUDENT, TEACHER = ModelShape(3, 8, 2), ModelShape(7, 8, 2)
NOTHING = Batch(*[torch.zeros(2, 4)] * 5)
pytestmark = pytest.mark.usefixtures("alone")


def build(student: ModelShape = STUDENT, teacher: ModelShape = TEACHER, **options: Any) -> SID:
    return SID(SIDConfig(**options), student, teacher)


def names(parts: list[Part]) -> list[str]:
    return sorted(p.name for p in parts)


@pytest.mark.parametrize(
    ("step", "stage"), [(0, 1), (33, 1), (34, 1), (35, 2), (67, 2), (68, 3), (99, 3), (10**6, 3)]
)
def test_stages_are_those_that_were_recorded(step: int, stage: int):
    assert stage_at(step, 100, layers=2) == stage


@pytest.mark.parametrize(("steps", "layers"), [(100, 2), (7, 3), (12, 3), (1000, 12), (5, 4)])
def test_the_closed_form_is_the_recurrence(steps: int, layers: int):
    """The reference keeps a counter that moves on after a step; a share is a step or longer."""
    stage = 1
    for step in range(steps + 3):
        assert stage_at(step, steps, layers) == stage
        stage += stage <= layers and share_is_over(step, steps, layers, stage)


def test_stages_need_no_history():
    assert [stage_at(step, 0, 2) for step in (0, 1, 2)] == [1, 1, 3]  # a run of no known length
    assert stage_at(500, 1000, 12) == stage_at(500, 1000, 12) == 1 + 499 * 13 // 1000


def test_parts_of_each_stage():
    method = build()
    keys = {p.name: (p.student, p.teacher) for p in method.possible_parts()}
    assert keys == {
        "attention_scores.0": ((("scores", 0),), (("scores", 2),)),
        "attention_scores.1": ((("scores", 1),), (("scores", 5),)),
        "attention_scores.2": ((("scores", 2),), (("scores", 6),)),
        "hidden_states.0": ((("hidden_first", 1),), (("hidden_first", 3),)),
        "hidden_states.1": ((("hidden_first", 2),), (("hidden_first", 6),)),
        "hidden_states.2": ((("output_first", None),), (("output_first", None),)),
    }
    found = [names(method.parts(StepContext(s, 100))) for s in (0, 25, 26, 50, 51, 75, 76, 77)]
    one, two = (names(method.parts_in(stage)) for stage in (1, 2))
    assert found == [one, one, two, two, sorted(keys), sorted(keys), [], []]
    assert [method.done(StepContext(s, 100)) for s in (0, 75, 76)] == [False, False, True]


def test_values():
    g = torch.Generator().manual_seed(0)
    parts = {p.name: p for p in build().parts(StepContext())}
    s, t = (torch.randn(2, 2, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    found = parts["attention_scores.0"].loss(
        {("scores", 0): Tap(s)}, {("scores", 2): Tap(t)}, NOTHING
    )
    kl = F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(found, kl.mean((1, 2)))
    s, t = (torch.randn(2, 8, generator=g, dtype=torch.float64) for _ in range(2))
    found = parts["hidden_states.0"].loss(
        {("hidden_first", 1): Tap(s)}, {("hidden_first", 3): Tap(t)}, NOTHING
    )
    expected = F.cosine_embedding_loss(s, t, torch.ones(2), reduction="none")
    torch.testing.assert_close(found, expected)


def test_a_threshold_moves_the_stage_on_after_a_good_step():
    method = build(even=False, threshold=1.5)
    context = StepContext(step=90, max_steps=100)  # the step does not matter
    method.observe(context, {"hidden_states.0": 1.6, "attention_scores.0": 0.0})
    assert method.stage_of(context) == 1
    method.observe(context, {"hidden_states.0": 1.4, "attention_scores.0": 9.0})
    assert names(method.parts(context)) == names(method.parts_in(2))
    method.observe(context, {"hidden_states.0": 1.0, "hidden_states.1": 1.0})
    assert method.stage_of(context) == 2
    for _ in range(5):
        method.observe(context, {"hidden_states.0": 0.1, "hidden_states.1": 0.1})
    assert method.parts(context) == []
    assert method.done(context)
    assert int(method.stage) == 4
    again = build(even=False, threshold=1.5)
    again.load_state_dict(method.state_dict())
    assert again.done(context)


def test_with_both_a_layer_joins_at_the_earlier_of_the_two():
    method, stages = build(ModelShape(2, 8, 2), threshold=0.5), []
    for step in range(70):
        stages.append(method.stage_of(StepContext(step, 100)))
        low = 0.1 if step == 10 else 1.0
        method.observe(StepContext(step, 100), {"hidden_states.0": low})
    assert [stages.index(k) for k in (1, 2, 3)] == [0, 11, 68]


def test_what_is_refused():
    with pytest.raises(ValueError, match="stays at its first layer"):
        build(even=False)
    for other in (ModelShape(7, 12, 2), ModelShape(7, 8, 4)):
        with pytest.raises(ValueError, match=r"SID compares.*choose equal ones"):
            build(teacher=other)
    with pytest.raises(ValueError, match="teacher has 2 layers, the student 3"):
        build(teacher=ModelShape(2, 8, 2)).possible_parts()
