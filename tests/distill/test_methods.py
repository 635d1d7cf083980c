"""The parts that each method declares, and the options it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmkd_nemo.distill.method import Batch, ModelShape, Part, StepContext
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.positions import Positions
from glmkd_nemo.distill.taps import Tap

STUDENT, TEACHER = ModelShape(2, 8, 2), ModelShape(5, 12, 2)
pytestmark = pytest.mark.usefixtures("alone")
OUTPUT, LOGITS = ("output", None), ("logits", None)


def build(name: str, student: ModelShape = STUDENT, teacher: ModelShape = TEACHER, **options: Any):
    method = method_class(name)
    return method(method.Config(**options), student, teacher)


def pairs(parts: list[Part]) -> dict[str, tuple[Any, Any]]:
    assert all(len(p.student) == len(p.teacher) == 1 for p in parts)
    return {p.name: (p.student[0], p.teacher[0]) for p in parts}


def parts_of(name: str, **options: Any) -> dict[str, tuple[Any, Any]]:
    return pairs(build(name, **options).parts(StepContext()))


def test_tinybert_compares_segment_ends():
    assert parts_of("tinybert") == {
        "attention_scores.0": (("scores", 0), ("scores", 2)),
        "attention_scores.1": (("scores", 1), ("scores", 4)),
        "hidden_states.0": (("hidden", 0), ("hidden", 0)),
        "hidden_states.1": (("hidden", 1), ("hidden", 3)),
        "hidden_states.2": (OUTPUT, OUTPUT),
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"attention": False, "embedding": False}, [("hidden", 1), OUTPUT]),
        ({"attention": False, "final": False}, [("hidden", 0), ("hidden", 1)]),
        ({"layers": "final"}, [OUTPUT]),
        ({"layers": "final", "custom_final": 2}, [("hidden", 1)]),
        ({"layers": "embedding"}, [("hidden", 0)]),
        ({"layers": "embedding_final"}, [("hidden", 0), OUTPUT]),
        ({"layers": "embedding_final", "custom_final": 2}, [("hidden", 0), ("hidden", 1)]),
    ],
)
def test_tinybert_options(options: dict[str, Any], expected: list[Any]):
    assert [student for student, _ in parts_of("tinybert", **options).values()] == expected


def test_tinybert_draws_layers_per_epoch_or_step():
    method = build("tinybert", random_layers=True, random_every_epochs=0, random_every_steps=10)

    def drawn(step: int) -> Any:
        return pairs(method.parts(StepContext(step=step, seed=1)))["hidden_states.1"][1]

    turns = [drawn(step) for step in range(0, 200, 10)]
    assert [drawn(step + 9) for step in range(0, 200, 10)] == turns
    assert {layer for _, layer in turns} == {1, 2, 3, 4}
    method = build("tinybert", random_layers=True, random_every_epochs=2)
    by_epoch = [
        pairs(method.parts(StepContext(step=e * 7, epoch=e)))["hidden_states.1"] for e in range(40)
    ]
    assert by_epoch[0::2] == by_epoch[1::2]
    assert len(set(by_epoch)) == 4


def test_tinybert_possible_parts_cover_every_draw():
    method = build("tinybert", ModelShape(3, 8, 2), ModelShape(6, 12, 2), random_layers=True)
    possible = {(p.name, p.student, p.teacher) for p in method.possible_parts()}
    drawn = {
        (p.name, p.student, p.teacher)
        for epoch in range(200)
        for p in method.parts(StepContext(epoch=epoch))
    }
    assert drawn <= possible
    assert {t for name, _, t in drawn if name == "hidden_states.1"} == {
        (("hidden", i),) for i in (1, 2, 3, 4)
    }


def test_tinybert_loss_projects_hidden_states_but_not_scores():
    method = build("tinybert").double()
    parts = {p.name: p for p in method.parts(StepContext())}
    g = torch.Generator().manual_seed(0)
    student, teacher, scores = (
        torch.randn(2, *shape, generator=g, dtype=torch.float64)
        for shape in ((3, 8), (3, 12), (2, 3, 3))
    )
    batch = Batch(*[torch.zeros(2, 3)] * 5)
    part = parts["hidden_states.0"]
    found = part.loss({("hidden", 0): Tap(student)}, {("hidden", 0): Tap(teacher)}, batch)
    projected = student @ method.fit_dense.weight.T + method.fit_dense.bias
    torch.testing.assert_close(found, (projected - teacher).square().mean((1, 2)))
    part = parts["attention_scores.0"]
    taps = {("scores", 0): Tap(scores, None)}, {("scores", 2): Tap(2 * scores, None)}
    torch.testing.assert_close(part.loss(*taps, batch), scores.square().mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tinybert", {"layers": "last"}, "'last' is unknown: all, final, embedding"),
        ("kd", {"loss": "js"}, "'js' is unknown: kl, ce, mse"),
        ("kd", {"mask": "pad"}, "'pad' is unknown: target, pad_labels, pad_positions, none"),
        ("glmd", {"teacher_min": True}, "teacher_min has no effect without top_n"),
        ("glmd", {"top_n": 0}, "number of tokens, or a share between 0 and 1"),
        ("glmd", {"top_n": -3}, "number of tokens, or a share between 0 and 1"),
    ],
)
def test_impossible_options(name: str, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_tinybert_needs_equal_heads_for_attention_only():
    other = ModelShape(5, 12, 3)
    with pytest.raises(ValueError, match=r"student has 2 heads and the teacher 3"):
        build("tinybert", teacher=other)
    assert build("tinybert", teacher=other, attention=False).parts(StepContext())
    assert build("tinybert", teacher=other, layers="final").parts(StepContext())


def test_tinybert_refuses_a_shallow_teacher():
    with pytest.raises(ValueError, match="teacher has 1 layers, the student 2"):
        build("tinybert", teacher=ModelShape(1, 12, 2)).parts(StepContext())


def test_glmd_parts():
    assert list(parts_of("glmd")) == ["logits"]
    assert list(parts_of("glmd", top_n=20)) == ["logits", "top_n"]
    assert list(parts_of("glmd", top_n=0.25, teacher_min=True)) == ["logits"]
    assert set(parts_of("glmd", top_n=20).values()) == {(LOGITS, LOGITS)}


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({}, "pad_positions"),
        ({"mask_pad": False}, "none"),
        ({"mask_a": True}, "pad_positions_and_target"),
        ({"mask_a": True, "mask_pad": False}, "target"),
    ],
)
def test_glmd_masks(options: dict[str, bool], mask: str):
    batch = Batch(
        input_ids=torch.ones(1, 3, dtype=torch.long),
        position_ids=torch.tensor([[[0, 1, 0], [0, 0, 0]]]),
        attention_mask=torch.tensor([1]),
        labels=torch.tensor([[1, 1, 1]]),
        loss_mask=torch.tensor([[0.0, 1.0, 1.0]]),
    )
    asked: list[torch.Tensor] = []

    class Handle:
        vocab_size = width = 4
        tokens = None

        def rows(self, where: Positions) -> torch.Tensor:
            asked.append(where.mask)
            return torch.zeros(len(where.index), 4)

    part = build("glmd", **options).parts(StepContext())[0]
    part.loss({LOGITS: Handle()}, {LOGITS: Handle()}, batch)
    assert all(found is batch.mask(mask) for found in asked)
    assert len(asked) == 2
