"""Sweeps from end to end, of stand-ins: killed, stopped, failing, searching, in stages."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from glmkd_nemo.tune import main as tune_main
from glmkd_nemo.tune import study
from glmkd_nemo.tune.plan import cells
from glmkd_nemo.tune.settings import ROOT, load_settings
from tests.tune.conftest import Sweep


def wait_until(
    sweep: Sweep, what: str, count: int, process: subprocess.Popen[bytes] | None = None
) -> None:
    end = time.monotonic() + 400
    while len(sweep.noted(what)) < count:
        assert process is None or process.poll() is None, "the sweep has ended"
        assert time.monotonic() < end, f"{len(sweep.noted(what))} {what}"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)  # two workers import torch: slow on a busy machine
def test_a_killed_sweep_goes_on(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    """16 runs, two at a time by joblib, killed in the middle: none is lost, none is done twice."""
    arguments = [*sweep.arguments, "overrides.epochs=0.3", "jobs=2", "gpus=[971,972]"]
    script = [sys.executable, str(ROOT / "scripts" / "tune.py"), *arguments]
    killed = subprocess.Popen(script, start_new_session=True)
    try:
        wait_until(sweep, "done", 5, killed)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)  # its workers too
        killed.wait()
    assert {row["gpu"] for row in sweep.noted("start")} == {"971", "972"}
    before = len(sweep.noted("done"))
    assert 5 <= before < 16

    assert sweep("overrides.epochs=0.3") == 0
    assert len(sweep.noted("done")) == len(set(sweep.folders("done"))) == 16
    started = sweep.folders("start")
    assert len(started) - len(set(started)) <= 2  # those that were being run

    assert sweep("overrides.epochs=0.3") == 0
    assert len(sweep.noted("done")) == 16
    said = capsys.readouterr().out
    assert "16 runs, 16 of them done before" in said
    page = (sweep.out / "tune.html").read_text()
    for cells_of_row in (
        "<td>rte</td><td>glmd</td><td>accuracy</td><td>51.50 ± 0.71</td><td>2 of 2</td>",
        "<td>copa</td><td>tinybert</td><td>accuracy</td><td>61.50 ± 0.71</td><td>2 of 2</td>",
    ):
        assert cells_of_row in page
    best = dict.fromkeys(["rte glmd", "copa glmd"], "2e-05")
    best |= dict.fromkeys(["rte tinybert", "copa tinybert"], "1e-05")
    for line in said.splitlines():
        words = line.split()
        if len(words) == 6 and " ".join(words[:2]) in best:
            assert words[-1] == best.pop(" ".join(words[:2]), words[-1])
    assert not best
    assert "| glmd | 51.50 ± 0.71 | 61.50 ± 0.71 | 56.50 |" in (sweep.out / "tune.md").read_text()
    assert len((sweep.out / "runs.tsv").read_text().splitlines()) == 17


class _Handler(logging.Handler):
    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


def test_a_failing_run_is_named_and_the_others_go_on(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = _Handler()  # of another library: absl's closes what it writes to
    changes = ["tasks=[rte]", "methods=[glmd]", "space={model.optim.lr: [13, 2e-5]}"]
    assert sweep(*changes) == tune_main.INCOMPLETE
    assert len(sweep.noted("done")) == 2
    printed = capsys.readouterr().out
    reason = "error: model.optim.lr=13 is out of this world (exit code 2)"
    assert printed.count(f"failed: {reason}") == 2
    log = next(Path(word) for word in printed.split() if word.endswith("log.txt"))
    assert "out of this world" in log.read_text()
    assert reason in (sweep.out / "tune.html").read_text()
    assert sweep(*changes) == tune_main.INCOMPLETE
    assert len(sweep.noted("done")) == 2  # only the failed ones were tried again
    assert len(sweep.noted("start")) == 6
    assert not handler.closed


@pytest.mark.slow  # signals to this process: nothing for a long session
def test_ctrl_c_ends_runs_and_keeps_the_state(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["tasks=[rte]", "methods=[glmd]"]

    def interrupt() -> None:
        wait_until(sweep, "done", 1)
        wait_until(sweep, "start", 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert sweep(*changes, "overrides.epochs=0.5") == tune_main.STOPPED
    assert len(sweep.noted("stopped")) == 1  # the running one got it, no other was started
    assert len(sweep.noted("start")) == 2
    assert "the same command goes on" in capsys.readouterr().out
    assert sweep(*changes, "overrides.epochs=0.5") == 0
    assert len(sweep.noted("done")) == len(set(sweep.folders("done"))) == 4


@pytest.mark.slow
def test_a_stopped_trial_is_taken_up_again(sweep: Sweep) -> None:
    changes = ["tasks=[rte]", "methods=[glmd]", "space={model.optim.lr: 'interval(1e-6,1e-4)'}"]
    changes += ["trials=2", "overrides.epochs=0.5"]

    def interrupt() -> None:
        wait_until(sweep, "start", 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert sweep(*changes) == tune_main.STOPPED
    assert len(sweep.noted("done")) == 1  # of the first trial's two seeds
    assert sweep(*changes) == 0
    assert len(sweep.noted("done")) == len(set(sweep.folders("done"))) == 4
    assert len({row["model.optim.lr"] for row in sweep.noted("start")}) == 2


def test_hopeless_configurations_are_left_out(sweep: Sweep) -> None:
    changes = ["tasks=[rte]", "methods=[glmd]", "seeds=[1,2,3]", "hopeless=0.2"]
    assert sweep(*changes, "space={model.optim.lr: [2e-5, 9e-5, 1e-5]}") == 0
    rates = [row["model.optim.lr"] for row in sweep.noted("done")]
    assert {rate: rates.count(rate) for rate in rates} == {"2e-05": 3, "9e-05": 1, "1e-05": 3}
    assert "0.7 below the best" in (sweep.out / "tune.html").read_text()


def test_a_method_starts_from_the_best_run_of_another(sweep: Sweep) -> None:
    methods = "methods={again: {restore_from_path: '{best:first}/best.nemo'}, first: {}}"
    assert sweep(methods, "seeds=[1,2]") == 0
    rows = {row.get("restore_from_path"): row for row in sweep.noted("start")}
    starts = {path for path in rows if path}
    assert len(starts) == 2  # one of each task
    for path in starts:
        folder = Path(path).parent
        assert folder.parent.name == "seed2"  # the better one
        assert (folder / "results.json").is_file()
        assert rows[path]["task"] in folder.parts
        note = (folder.parents[1] / "config.json").read_text()
        assert '"model.optim.lr": 1e-05' in note


def test_a_search_goes_on_where_it_stopped(sweep: Sweep) -> None:
    changes = ["tasks=[rte]", "methods=[glmd]", "space={model.optim.lr: 'interval(1e-6,1e-4)'}"]
    assert sweep(*changes, "trials=2") == 0
    assert len(sweep.noted("done")) == 4  # two seeds each
    (cell,) = cells(load_settings([*sweep.arguments, *changes]))
    import optuna

    half_done = optuna.load_study(study_name=study.name(cell), storage=study.storage(sweep.out))
    interval = optuna.distributions.UniformDistribution(1e-6, 1e-4)
    trial = half_done.ask({"+point.model.optim.lr": interval})
    assert sweep(*changes, "trials=4") == 0
    rates = [float(row["model.optim.lr"]) for row in sweep.noted("start")]
    assert len(rates) == 8
    assert len(set(rates)) == 4
    assert trial.params["+point.model.optim.lr"] in rates  # tried although it was given up
    assert sweep(*changes, "trials=4") == 0
    assert len(sweep.noted("start")) == 8
    values = [t.value for t in half_done.trials if t.value is not None]
    assert max(values) == pytest.approx(max(0.515 - abs(rate - 2e-5) * 1e4 for rate in rates))


@pytest.mark.slow
def test_a_search_of_nothing_but_failures_ends(sweep: Sweep) -> None:
    changes = ["tasks=[rte]", "methods=[glmd]", "space={model.optim.lr: 'choice(13)'}"]
    assert sweep(*changes, "trials=2", "seeds=[1]") == tune_main.INCOMPLETE
    assert 1 <= len(sweep.noted("start")) <= 2
    assert not sweep.noted("done")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("space.model.optim.lrr=[1]", "unknown key model.optim.lrr; did you mean model.optim.lr?"),
        ("space.model.optim.lr=[1,x]", "model.optim.lr='x' is of the wrong type"),
        ("overrides.task.patern_id=1", "unknown key task.patern_id (rte); did you mean pattern_id"),
        ("methods=[glmdd]", "method=glmdd is unknown; did you mean glmd?"),
        ("tasks=[rt]", "task=rt is unknown; did you mean rte?"),
        ("space={model.optim.lr: 'interval(1e-5,1e-4)'}", "give trials=20"),
        ("launcher=jobli", "Could not find 'hydra/launcher/jobli'"),
        ("launcher_options.partition=gpu", "Could not override 'hydra.launcher.partition'"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(
    sweep: Sweep, change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("tasks=[rte]", "methods=[glmd]", change) == tune_main.USER_ERROR
    assert message in capsys.readouterr().err
    assert not sweep.noted("start")
