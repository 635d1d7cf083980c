"""Stages are skipped when done, redone when anything that decides them changed."""

from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.demo.stages import Stage, StageRunner


class Work:
    """Counts its calls, and leaves a file as a training would leave its checkpoints."""

    def __init__(self, fail: bool = False) -> None:
        self.calls = 0
        self.fail = fail
        self.found: list[str] = []

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        self.found = sorted(p.name for p in folder.iterdir() if p.suffix == ".ckpt")
        (folder / "last.ckpt").write_text("state")
        if self.fail:
            raise KeyboardInterrupt
        return {"loss": 1.5}


def test_a_done_stage_is_skipped_and_its_outcome_kept(tmp_path: Path) -> None:
    work, seen = Work(), []
    for _ in range(2):
        runner = StageRunner(tmp_path, lambda name, skipped: seen.append((name, skipped)))
        outcome = runner.run(Stage("teacher", {"steps": 3}, work))
    assert outcome == {"loss": 1.5}
    assert work.calls == 1
    assert seen == [("teacher", False), ("teacher", True)]


def test_a_changed_setting_runs_it_anew_in_an_empty_folder(tmp_path: Path) -> None:
    work = Work()
    StageRunner(tmp_path).run(Stage("teacher", {"steps": 3}, work))
    StageRunner(tmp_path).run(Stage("teacher", {"steps": 4}, work))
    assert work.calls == 2
    assert work.found == []


def test_a_changed_predecessor_runs_its_followers_anew(tmp_path: Path) -> None:
    follower = Work()
    for steps in (3, 4):
        runner = StageRunner(tmp_path)
        runner.run(Stage("teacher", {"steps": steps}, Work()))
        runner.run(Stage("student", {"steps": 2}, follower, after=("teacher",)))
    assert follower.calls == 2


def test_an_interrupted_stage_finds_its_files_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        StageRunner(tmp_path).run(Stage("teacher", {"steps": 3}, Work(fail=True)))
    assert not StageRunner(tmp_path).record("teacher", "done").exists()
    again = Work()
    StageRunner(tmp_path).run(Stage("teacher", {"steps": 3}, again))
    assert again.found == ["last.ckpt"]


def test_an_interrupted_stage_of_other_settings_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        StageRunner(tmp_path).run(Stage("teacher", {"steps": 3}, Work(fail=True)))
    again = Work()
    StageRunner(tmp_path).run(Stage("teacher", {"steps": 9}, again))
    assert again.found == []


def test_a_half_written_record_counts_as_not_done(tmp_path: Path) -> None:
    work = Work()
    StageRunner(tmp_path).run(Stage("teacher", {}, work))
    StageRunner(tmp_path).record("teacher", "done").write_text('{"fingerprint": "abc')
    StageRunner(tmp_path).run(Stage("teacher", {}, work))
    assert work.calls == 2


def test_order_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs \\['teacher'\\]"):
        StageRunner(tmp_path).run(Stage("student", {}, Work(), after=("teacher",)))
