"""Fine-tuning and distillation on tasks, with every kind of head, in every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.finetune.runs import FORMS, LAYOUTS
from tests.launch import run_ranks

HERE = "tests.finetune.runs"
pytestmark = pytest.mark.timeout(600)
QUICK = [("written", "dp2"), ("fast", "tp2_sp"), ("classifier", "pp2"), ("stages", "pp2")]
REST = [(form, name) for form in (*FORMS, "stages") for name in LAYOUTS]
REST = [run for run in REST if run not in QUICK]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where it all lies."""
    return str(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def alone(root: str) -> dict[str, Any]:
    """What one process gives."""
    found: dict[str, Any] = run_ranks(f"{HERE}:one_process", 1, {"root": root}, timeout=280)
    return found


@pytest.fixture(scope="module")
def together(root: str, alone: dict[str, Any]) -> dict[str, Any]:
    """What two processes give."""
    return _together(root, QUICK)


@pytest.fixture(scope="module")
def all_together(root: str, alone: dict[str, Any]) -> dict[str, Any]:
    """The rest of it."""
    return _together(root, REST)


def _together(root: str, runs: list[tuple[str, str]]) -> dict[str, Any]:
    given = {"root": root, "runs": runs}
    found: dict[str, Any] = run_ranks(f"{HERE}:many_processes", 2, given, timeout=500)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_run_says_what_it_found(alone: dict[str, Any], form: str):
    found = alone[form]
    assert found["task"] == FORMS[form][0]
    epoch = 6 if FORMS[form][0] == "copa" else 3  # COPA's training rows are mirrored
    assert found["steps"] == 2 * epoch
    assert [row["step"] for row in found["history"]] == [epoch, 2 * epoch]
    main = found["main_metric"]
    assert found["best"]["metrics"][main] == max(r["metrics"][main] for r in found["history"])
    assert len(found["predictions"]) == 7
    assert len(found["predictions_test"]) == 5
    assert set(found["baseline"]) == set(found["best"]["metrics"])


def test_the_fast_form_scores_as_the_plain_one(alone: dict[str, Any]):
    plain, fast = (alone[form]["history"] for form in ("cloze", "fast"))
    assert plain == fast
    for ours, theirs in zip(
        alone["cloze"]["predictions"], alone["fast"]["predictions"], strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("form", "layout"), QUICK)
def test_layouts_agree(alone: dict[str, Any], together: dict[str, Any], form: str, layout: str):
    assert not _differences(together[f"{form}_{layout}"], alone[form])


@pytest.mark.slow
@pytest.mark.parametrize(("form", "layout"), REST)
def test_all_layouts_agree(
    alone: dict[str, Any], all_together: dict[str, Any], form: str, layout: str
):
    assert not _differences(all_together[f"{form}_{layout}"], alone[form])


def _differences(mine: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    found = [] if mine["history"] == expected["history"] else ["history"]
    for name in ("predictions", "predictions_test"):
        rows = zip(mine.get(name, []), expected.get(name, []), strict=True)
        close = [ours == pytest.approx(theirs, rel=2e-4, abs=2e-4) for ours, theirs in rows]
        found += [] if all(close) else [name]
    return found


def test_finished_stages_are_skipped(alone: dict[str, Any]):
    assert alone["again"] == alone["stages"]
    assert alone["stages"]["method"] == "kd"  # the last stage's


def test_answers_are_tokens_where_the_task_is_to_write(alone: dict[str, Any]):
    found = alone["written_stages"]
    assert (found["task"], found["method"]) == ("wsc_generative", "kd")
    assert len(found["history"]) == 1


def test_the_last_weights_of_intermediate_losses_go_on(root: str, alone: dict[str, Any]):
    """They change no answer by themselves: the best weights would often be the first ones."""
    assert Path(alone["stages"]["started_from"]).parts[-2:] == ("1_intermediate", "last.nemo")
    assert Path(root, "stages", "1_intermediate", "last.nemo").is_file()
    assert not Path(root, "stages", "2_prediction", "last.nemo").exists()


def test_a_changed_configuration_is_refused(alone: dict[str, Any]):
    assert "another configuration" in alone["changed"]
    assert "results.json" in alone["changed"]


def test_a_missing_file_is_named(alone: dict[str, Any]):
    assert "nothing.jsonl" in alone["missing"]
