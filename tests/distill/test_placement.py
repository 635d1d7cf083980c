"""Where parts are computed and teachers' layers go, so that a pair of tensors can meet."""

from __future__ import annotations

from typing import Any

import pytest

from glmkd_nemo.distill.method import ModelShape, Part, StepContext
from glmkd_nemo.distill.objective import Objective, WeightedPart, term_from_dict
from glmkd_nemo.distill.placement import home_of, place_teacher, stage_of, tapped_layers
from glmkd_nemo.models.config import even_split

OUTPUT, LOGITS, EMBEDDING = ("output", None), ("logits", None), ("embedding", None)


def planned(student: Any, teacher: Any, name: str = "t0", *more: Any) -> WeightedPart:
    part = Part("x", lambda s, t, b: None, (student, *more), (teacher,))  # type: ignore[arg-type]
    return WeightedPart("term/x", 1.0, part, name)


def tinybert(student_layers: int, teacher_layers: int, **options: Any) -> Objective:
    term = term_from_dict("x", {"method": "tinybert", **options}, ["t0"])
    student, teacher = ModelShape(student_layers, 8, 2), ModelShape(teacher_layers, 8, 2)
    return Objective({"x": term}, student, {"t0": teacher})


@pytest.mark.parametrize(
    ("key", "stage"),
    [
        (EMBEDDING, 0),
        (OUTPUT, 2),
        (LOGITS, 2),
        (("hidden", 0), 0),
        (("hidden", 1), 0),
        (("scores", 2), 1),
        (("scores", 3), 2),
        (("scores", 4), 2),
    ],
)
def test_stage_of_a_tap(key: Any, stage: int):
    assert stage_of(key, [2, 1, 2]) == stage


def test_a_layer_that_no_stage_has():
    with pytest.raises(ValueError, match="layer 5: the model has 5 layers"):
        stage_of(("hidden", 5), [2, 1, 2])


def test_a_part_lives_where_the_last_of_the_students_tensors_is():
    assert home_of(planned(("hidden", 2), OUTPUT), [2, 2]) == 1
    assert home_of(planned(("hidden", 0), ("hidden", 3)), [2, 2]) == 0
    assert home_of(planned(("hidden", 0), ("hidden", 3), "t0", ("hidden", 2)), [2, 1, 2]) == 1
    # only the last stage has the teacher's final states
    assert home_of(planned(("hidden", 0), OUTPUT), [2, 2]) == 1


def test_tapped_layers_of_student_and_teachers():
    parts = [
        planned(("hidden", 1), ("hidden", 3)),
        planned(("scores", 0), ("scores", 5), "t1"),
        planned(OUTPUT, OUTPUT),
    ]
    assert tapped_layers(parts, None) == {0, 1}
    assert tapped_layers(parts, "t0") == {3}
    assert tapped_layers(parts, "t1") == {5}


def test_a_teacher_is_spread_evenly_where_nothing_binds_it():
    assert place_teacher("t0", [planned(LOGITS, LOGITS)], [2, 2], 7) == [4, 3]
    assert place_teacher("t0", [planned(("hidden", 0), ("hidden", 6), "t1")], [2, 2], 7) == [4, 3]
    assert place_teacher("t0", [planned(OUTPUT, OUTPUT)], [2], 7) == [7]


def test_a_teacher_runs_ahead_where_an_early_stage_asks_for_a_late_layer():
    assert place_teacher("t0", [planned(("hidden", 1), ("hidden", 4))], [2, 2], 6) == [5, 1]
    three = [planned(("hidden", 0), ("hidden", 4)), planned(("hidden", 1), ("hidden", 2))]
    assert place_teacher("t0", three, [1, 1, 1], 6) == [5, 0, 1]


@pytest.mark.parametrize(("student", "teacher"), [(2, 2), (4, 4), (4, 6), (5, 12), (6, 24), (7, 8)])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_pairs_meet_for_any_depths(student: int, teacher: int, stages: int):
    if student < stages:
        pytest.skip("fewer layers than stages")
    split, parts = even_split(student, stages), tinybert(student, teacher).possible_parts()
    placed = place_teacher("t0", parts, split, teacher)
    check_reachable(parts, split, placed, teacher)


@pytest.mark.parametrize("stages", [2, 3])
def test_random_layers_meet_whatever_is_drawn(stages: int):
    objective = tinybert(3, 9, random_layers=True)
    split = even_split(3, stages)
    placed = place_teacher("t0", objective.possible_parts(), split, 9)
    for epoch in range(100):
        check_reachable(objective.parts(StepContext(epoch=epoch)), split, placed, 9)


def check_reachable(
    parts: list[WeightedPart], split: list[int], placed: list[int], layers: int
) -> None:
    """Teachers' tensors travel to later stages only."""
    assert sum(placed) == layers
    assert len(placed) == len(split)
    assert min(placed) >= 0
    for part in parts:
        for key in part.part.teacher:
            assert stage_of(key, placed) <= home_of(part, split)


@pytest.mark.parametrize("late", [OUTPUT, LOGITS])
def test_what_is_compared_with_the_end_of_a_teacher_goes_to_the_last_stage(late: Any):
    assert place_teacher("t0", [planned(("hidden", 0), late)], [2, 2], 6) == [3, 3]
    assert place_teacher("t0", [planned(("hidden", 0), EMBEDDING)], [2, 2], 6) == [3, 3]


def test_layers_that_stand_in_for_the_students_live_on_their_stage():
    segments = {0: range(0, 2), 1: range(2, 3), 2: range(3, 6)}
    assert place_teacher("t0", [], [1, 2], 6, segments) == [2, 4]
    with pytest.raises(ValueError, match="hidden of layer 4 on pipeline stage 0"):
        place_teacher("t0", [planned(("hidden", 0), ("hidden", 4))], [1, 2], 6, segments)
