"""A student with a teacher from a ``.nemo``: kill, resume, other layouts, bad input."""

from __future__ import annotations

from typing import Any

import pytest

from tests.launch import RankFailed, run_ranks

LAYOUTS = ("dp2", "tp2", "tp2_sp", "pp2")
HERE = "tests.distillation.runs"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Holds text, teacher and a killed distillation."""
    folder = str(tmp_path_factory.mktemp("distillation"))
    with pytest.raises(RankFailed, match="-9"):
        run_ranks(f"{HERE}:teacher_and_killed", 1, {"root": folder}, timeout=170)
    return folder


@pytest.fixture(scope="module")
def alone(root: str) -> dict[str, Any]:
    """What one process gives."""
    found: dict[str, Any] = run_ranks(f"{HERE}:one_process", 1, {"root": root}, timeout=200)
    return found


@pytest.fixture(scope="module")
def together(root: str, alone: dict[str, Any]) -> dict[str, Any]:
    """What two processes give, going on from one process's checkpoint."""
    from tests.distillation.runs import IN_TURN
    from tests.distillation.runs import LAYOUTS as SETTINGS

    args = {"root": root, "layouts": {**SETTINGS, **IN_TURN}}
    found: dict[str, Any] = run_ranks(f"{HERE}:many_processes", 2, args, timeout=200)
    return found


def test_all_parts_are_logged_and_sum_up(alone: dict[str, Any]):
    parts = alone["no_dropout"]["parts"][0]
    names = {"tinybert/attention_scores.0", "tinybert/attention_scores.1"}
    names |= {f"tinybert/hidden_states.{i}" for i in range(3)}
    names |= {"kd/soft", "glmd/logits", "hard/hard", "loss"}
    assert set(parts) == names
    tinybert = sum(value for name, value in parts.items() if name.startswith("tinybert/"))
    total = 0.5 * tinybert + 3 * parts["kd/soft"] + parts["glmd/logits"] + parts["hard/hard"]
    assert parts["loss"] == pytest.approx(total, rel=1e-6)


def test_schedules_move_the_weights(alone: dict[str, Any]):
    parts = alone["no_dropout"]["parts"][5]
    tinybert = sum(value for name, value in parts.items() if name.startswith("tinybert/"))
    glmd = (1.0 - 0.9 * 5 / 6) * parts["glmd/logits"]
    total = 0.5 * tinybert + 3 * parts["kd/soft"] + glmd + parts["hard/hard"]
    assert parts["loss"] == pytest.approx(total, rel=1e-6)


def test_learning_happens(alone: dict[str, Any]):
    parts = alone["no_dropout"]["parts"]
    assert parts[5]["hard/hard"] < parts[0]["hard/hard"]
    assert parts[5]["tinybert/hidden_states.0"] < parts[0]["tinybert/hidden_states.0"]


def test_a_killed_run_goes_on_bitwise(alone: dict[str, Any]):
    whole, resumed = alone["whole"], alone["resumed"]
    assert sorted(resumed["parts"]) == [3, 4, 5]
    assert all(resumed["parts"][step] == whole["parts"][step] for step in (3, 4, 5))
    assert resumed["weights"] == whole["weights"]


def test_recompute_changes_nothing(alone: dict[str, Any]):
    for step, parts in alone["whole"]["parts"].items():
        for name, value in alone["recompute"]["parts"][step].items():
            assert value == pytest.approx(parts[name], rel=1e-5)  # dropout is the same too


def test_bf16_is_near(alone: dict[str, Any]):
    expected, found = alone["no_dropout"]["parts"][0], alone["bf16"]["parts"][0]
    assert found["hard/hard"] == pytest.approx(expected["hard/hard"], rel=0.02)
    assert found["tinybert/hidden_states.0"] != expected["tinybert/hidden_states.0"]


def test_a_bf16_teacher_of_a_student_in_fp32_is_near(alone: dict[str, Any]):
    """Before the first update: the two runs are of different length, and so is their schedule."""
    found, expected = alone["bf16_teacher"]["parts"][0], alone["no_dropout"]["parts"][0]
    assert found["kd/soft"] != expected["kd/soft"]
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_is_resumed_at_another_layout(
    alone: dict[str, Any], together: dict[str, Any], layout: str
):
    assert sorted(together[layout]["parts"]) == [3, 4, 5]
    for step, parts in together[layout]["parts"].items():
        expected = alone["no_dropout"]["parts"][step]
        assert set(parts) == set(expected)
        for name, value in parts.items():
            assert value == pytest.approx(expected[name], rel=1e-5), (step, name)


@pytest.mark.slow
def test_teachers_in_waiting_times_change_no_bit(together: dict[str, Any]):
    filled, in_turn = together["pp2"], together["pp2_in_turn"]
    assert [filled["next_step"], in_turn["next_step"]] == [True, False]
    assert filled["parts"] == in_turn["parts"]
    assert filled["weights"] == in_turn["weights"]


@pytest.mark.slow
def test_four_processes(root: str, alone: dict[str, Any]):
    layout = {
        "model__tensor_model_parallel_size": 2,
        "model__pipeline_model_parallel_size": 2,
        "model__sequence_parallel": True,
    }
    args = {"root": root, "layouts": {"tp2_pp2_sp": layout}}
    found = run_ranks(f"{HERE}:many_processes", 4, args, timeout=300)["tp2_pp2_sp"]["parts"]
    for step, parts in found.items():
        for name, value in parts.items():
            assert value == pytest.approx(alone["no_dropout"]["parts"][step][name], rel=1e-5)


def test_a_student_archive_has_no_projections_and_restores(alone: dict[str, Any]):
    first = alone["no_dropout"]["parts"][0]["hard/hard"]
    assert alone["from_nemo"]["hard/hard"] < first  # trained weights, a fresh projection


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("vocabulary", ["another vocabulary", "model.tokenizer", "tiny.nemo"]),
        ("missing", ["nowhere.nemo"]),
        ("truncated", ["truncated.nemo", "truncated"]),
        ("lacks_weights", ["shallow", "does not fit"]),
        ("not_set", ["model.teachers.t0.restore_from_path is not set"]),
        ("unused", ["no term uses the teacher t1"]),
        ("no_teacher", ["distill.terms.tinybert", "teacher"]),
        ("heads", ["2 heads", "attention=false"]),
    ],
)
def test_bad_input_is_refused_by_name(alone: dict[str, Any], case: str, words: list[str]):
    message = alone["refusals"][case]
    assert all(word in message for word in words), message
