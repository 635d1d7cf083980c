"""Kill, resume and restore: the same numbers, bitwise on one process, to rounding on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.launch import RankFailed, run_ranks

LAYOUTS = ("dp2", "tp2", "tp2_sp", "pp2")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All runs: one killed, the others on one process, then on two."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.raises(RankFailed, match="-9"):
        run_ranks("tests.shell.ranks:killed", 1, {"folder": str(root / "killed")}, timeout=150)
    assert not list(Path(root, "killed").glob("*.nemo"))
    found = run_ranks("tests.shell.ranks:one_process", 1, {"root": str(root)}, timeout=170)
    found |= run_ranks("tests.shell.ranks:two_processes", 2, {"root": str(root)}, timeout=170)
    return {"root": root, **found}


pytestmark = pytest.mark.timeout(600)


def test_a_killed_run_goes_on_bitwise(results: dict[str, Any]):
    whole, resumed = results["whole"], results["resumed"]
    assert sorted(whole["losses"]) == list(range(6))
    assert sorted(resumed["losses"]) == [3, 4, 5]
    assert all(resumed["losses"][step] == whole["losses"][step] for step in resumed["losses"])
    assert resumed["weights"] == whole["weights"]
    assert resumed["held_out"] == whole["held_out"]


def test_dropout_is_on_and_learning_happens(results: dict[str, Any]):
    whole, dry = results["whole"]["losses"], results["no_dropout"]["losses"]
    assert whole[0] != dry[0]
    assert dry[5] < dry[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_archive_is_restored_at_another_layout(results: dict[str, Any], layout: str):
    expected = results["no_dropout"]["held_out"]
    found = results[f"nemo_{layout}"]
    assert found["val_loss"] == pytest.approx(expected["val_loss"], abs=1e-6)
    assert found["val_accuracy"] == pytest.approx(expected["val_accuracy"], abs=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_is_resumed_at_another_layout(results: dict[str, Any], layout: str):
    expected, found = results["no_dropout"], results[f"resumed_{layout}"]
    assert sorted(found["losses"]) == [3, 4, 5]
    for step, loss in found["losses"].items():
        assert loss == pytest.approx(expected["losses"][step], abs=1e-5)
    assert found["held_out"]["val_loss"] == pytest.approx(
        expected["held_out"]["val_loss"], abs=1e-5
    )


@pytest.mark.parametrize("name", ["bf16", "fp16", "adam", "recompute"])
def test_variants_train_as_the_plain_one(results: dict[str, Any], name: str):
    plain, found = results["plain"], results[name]
    tolerance = {"bf16": 0.05, "fp16": 0.01}.get(name, 1e-6)
    for step in (0, 1):
        assert found["losses"][step] == pytest.approx(plain["losses"][step], abs=tolerance)
    if name in ("bf16", "fp16"):
        assert found["losses"][0] != plain["losses"][0]


def test_what_a_run_leaves(results: dict[str, Any]):
    folder = results["root"] / "whole"
    assert (folder / "toy.nemo").is_file()
    assert logged_steps(folder) == [[0, 1, 2, 3, 4, 5]]
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    assert sum(name.endswith("-last") for name in names) == 1
    assert not [name for name in names if name.endswith((".tmp", ".old", "-unfinished"))]


def test_logs_go_on_at_the_step_of_the_checkpoint(results: dict[str, Any]):
    killed, resumed = logged_steps(results["root"] / "killed")
    assert killed == list(range(killed[-1] + 1))
    assert resumed == [3, 4, 5]


def test_ranks_share_values_only_where_they_are_logged(results: dict[str, Any]):
    """One of two ranks is asked to stop in its second step; both stop after the third."""
    asked, again = results["asked"], results["asked_again"]
    assert (asked["code"], again["code"]) == (130, 0)
    assert sorted(asked["losses"]) == [0, 1, 2]
    assert asked["collected"] == [0, 2]  # the first, for the progress line, and the last
    assert again["collected"] == [3, 5]
    whole = results["no_dropout"]["losses"]
    before, after = logged(results["root"] / "asked")
    assert [step for step, _ in before + after] == [2, 3]
    shown = dict(before + after)
    assert shown == pytest.approx({step: whole[step] for step in shown}, abs=1e-5)


def logged_steps(folder: Path) -> list[list[int]]:
    """Steps of the loss in TensorBoard's files, the oldest file first."""
    return [[step for step, _ in row] for row in logged(folder)]


def logged(folder: Path) -> list[list[tuple[int, float]]]:
    """Steps and values of the loss in TensorBoard's files, the oldest file first."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    def rows(path: Path) -> list[tuple[int, float]]:
        values = [(e.step, v) for e in EventFileLoader(str(path)).Load() for v in e.summary.value]
        return [(s, float(v.tensor.float_val[0])) for s, v in values if v.tag == "train/loss"]

    files = sorted(folder.rglob("events.out.tfevents*"), key=lambda path: path.name)
    return [rows(path) for path in files]
