"""What is on disk: locks, results, and their tables."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.report.json_file import write_json
from glmkd_nemo.tune import main as tune_main
from glmkd_nemo.tune.locks import Stopped, locked, one_of, try_lock
from glmkd_nemo.tune.plan import Cell
from glmkd_nemo.tune.progress import duration
from glmkd_nemo.tune.report import best_rows, collect, number, overview
from glmkd_nemo.tune.results import (
    CONFIGURATION,
    Result,
    ranking,
    read_result,
    run_folder,
    seed_folder,
)
from tests.tune.conftest import Sweep


def test_a_lock_lasts_as_long_as_the_process_it_was_given_to(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, lambda: False) as file:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[file])
    assert try_lock(path) is None  # let go here, but the child has it
    with pytest.raises(Stopped), locked(path, lambda: True):
        pass
    child.kill()
    child.wait()
    with locked(path, lambda: True):
        pass


def test_gpus_are_given_to_one_run_each() -> None:
    slots = ["981,982", "983"]
    with one_of(slots, lambda: True) as (first, _), one_of(slots, lambda: True) as (second, _):
        assert [first, second] == slots
        with pytest.raises(Stopped), one_of([*slots, "982"], lambda: True):
            pass


def test_two_sweeps_do_not_meet_in_one_folder(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.out.mkdir()
    with locked(sweep.out / "lock", lambda: False):
        assert sweep("tasks=[rte]", "methods=[glmd]") == tune_main.USER_ERROR
    assert "another tune.py is at work" in capsys.readouterr().err


def finished(root: Path, cell: Cell, lr: float, values: dict[int, float], **more: Any) -> None:
    configuration = cell.configuration({"lr": lr})
    content = {"base": configuration.base, "values": configuration.values}
    write_json(root / configuration.key / CONFIGURATION, content)
    for seed, value in values.items():
        best = {"step": 3, "metrics": {"main": value, "other": 0.5}}
        result = {"main_metric": "main", "best": best, "seconds": 1, **more}
        folder = run_folder(seed_folder(root, configuration, seed))
        write_json(folder / "results.json", result)


def test_the_best_is_chosen_among_those_with_all_seeds(tmp_path: Path) -> None:
    cell = Cell("rte", "kd", {"epochs": 1}, {"lr": [1, 2, 3]})
    finished(tmp_path, cell, 1, {1: 0.5, 2: 0.7})
    finished(tmp_path, cell, 2, {1: 0.9})
    finished(tmp_path, cell, 3, {1: 0.5, 2: 0.6})
    finished(tmp_path, Cell("rte", "kd", {"epochs": 2}, cell.space), 1, {1: 1.0, 2: 1.0})
    found = collect(tmp_path, [cell], [1, 2])
    ((_, ranked),) = found.cells
    assert [tried.configuration.values["lr"] for tried in ranked] == [1, 3, 2]
    assert ranked[0].best_seed == 2
    assert overview(found) == (["method", "rte"], [["kd", "60.00 ± 14.14"]])
    row = ["rte", "kd", "main", "60.00 ± 14.14", "2 of 2", "3", "other 50.00", "1"]
    assert best_rows(found) == [row]


def test_perplexity_is_better_if_lower(tmp_path: Path) -> None:
    cell = Cell("wikitext", "kd", {}, {"lr": [1, 2]})
    finished(tmp_path, cell, 1, {1: 30.5}, lower_is_better=True)
    finished(tmp_path, cell, 2, {1: 20.25}, lower_is_better=True)
    ranked = ranking(tmp_path, cell.grid(), [1])
    assert [tried.mean for tried in ranked] == [20.25, 30.5]
    assert overview(collect(tmp_path, [cell], [1]))[1] == [["kd", "20.25"]]


def test_a_result_is_whole_or_none(tmp_path: Path) -> None:
    file = run_folder(tmp_path) / "results.json"
    assert read_result(tmp_path) is None
    file.parent.mkdir()
    file.write_text('{"main_metric": "acc')
    assert read_result(tmp_path) is None  # killed while it was written
    file.write_text(json.dumps({"main_metric": "accuracy", "best": {"step": 1, "metrics": {}}}))
    with pytest.raises(ValueError, match=r"run/results\.json: no result .*remove it"):
        read_result(tmp_path)


def test_numbers_for_readers() -> None:
    share, perplexity = (Result("m", 0.5, lower, 1, {}, 1.0) for lower in (False, True))
    assert number(0.1234, 0.01, share) == "12.34 ± 1.00"
    assert number(0.9, None, perplexity) == "0.90"
    assert [duration(s) for s in (40, 720, 12600)] == ["40 s", "12 min", "3.5 h"]
