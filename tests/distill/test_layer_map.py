"""Layer maps against the table recorded from the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmkd_nemo.distill.layer_map import skip, uniform_segments

TABLE = json.loads((Path(__file__).parent / "fixtures" / "layer_maps.json").read_text())


def depths(pair: str) -> tuple[int, int]:
    teacher, student = map(int, pair.split("->"))
    return teacher, student


@pytest.mark.parametrize("pair", TABLE["uniform_segments"])
def test_uniform_segments(pair: str):
    assert uniform_segments(*depths(pair)) == TABLE["uniform_segments"][pair]


@pytest.mark.parametrize("pair", TABLE["skip"])
def test_skip(pair: str):
    teacher, student = depths(pair)
    # the reference's list goes on to the teacher's end; a student uses one entry per layer
    assert skip(teacher, student) == TABLE["skip"][pair][: student + 1]


def test_a_student_of_one_layer():
    """The reference crashes here; the segment is the whole teacher."""
    assert uniform_segments(5, 1) == [0, 5]
    assert skip(5, 1) == [0, 5]


@pytest.mark.parametrize("layer_map", [uniform_segments, skip])
def test_a_shallow_teacher_is_refused(layer_map):
    with pytest.raises(ValueError, match=r"teacher has 3 layers, the student 4.*glmd, kd"):
        layer_map(3, 4)
