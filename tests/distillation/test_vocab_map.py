"""Students with a vocabulary map: trained, resumed at other layouts, taken as teachers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.launch import run_ranks

HERE = "tests.distillation.vocab_map_runs"
pytestmark = pytest.mark.timeout(600)
LAYOUTS = ("dp2", "tp2", "tp2_sp", "pp2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where it all lies."""
    return str(tmp_path_factory.mktemp("vocab_map"))


@pytest.fixture(scope="module")
def alone(root: str) -> dict[str, Any]:
    """What one process gives."""
    found: dict[str, Any] = run_ranks(f"{HERE}:one_process", 1, {"root": root}, timeout=280)
    return found


@pytest.fixture(scope="module")
def together(root: str, alone: dict[str, Any]) -> dict[str, Any]:
    """What two processes give, going on from one process's checkpoints."""
    found: dict[str, Any] = run_ranks(f"{HERE}:many_processes", 2, {"root": root}, timeout=300)
    return found


@pytest.mark.parametrize("student", ["mapped", "unmapped"])
def test_students_learn(alone: dict[str, Any], student: str):
    parts = alone[student]["parts"]
    assert set(parts[0]) == {"glmd/logits", "kd/soft", "hard/hard", "loss"}
    assert parts[3]["hard/hard"] < parts[0]["hard/hard"]


def test_kept_tokens_compare_alike_whatever_the_output(alone: dict[str, Any]):
    """The same weights at the start; only the terms on all tokens see the output's form."""
    mapped, unmapped = (alone[name]["parts"][0] for name in ("mapped", "unmapped"))
    assert mapped["glmd/logits"] == pytest.approx(unmapped["glmd/logits"], rel=1e-5)
    assert mapped["kd/soft"] != pytest.approx(unmapped["kd/soft"], rel=1e-3)
    assert mapped["hard/hard"] > unmapped["hard/hard"]  # shared rows take probability


@pytest.mark.slow
@pytest.mark.parametrize("student", ["mapped", "unmapped"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_resumed_at_another_layout_without_the_table(
    alone: dict[str, Any], together: dict[str, Any], layout: str, student: str
):
    found = together[f"{student}_{layout}"]["parts"]
    assert sorted(found) == [2, 3]
    for step, parts in found.items():
        for name, value in parts.items():
            expected = alone[student]["parts"][step][name]
            assert value == pytest.approx(expected, rel=1e-5), (step, name)


@pytest.mark.parametrize("teacher", ["mapped", "unmapped"])
def test_a_teacher_with_a_map(alone: dict[str, Any], teacher: str):
    """It is compared over the whole vocabulary, whatever its own output."""
    parts = alone[f"of_{teacher}"]["parts"]
    assert parts[3]["kd/soft"] < parts[0]["kd/soft"]


def test_a_new_student_needs_the_table(alone: dict[str, Any]):
    assert "the vocabulary map is empty: set model.vocab_map.table" in alone["empty"]
