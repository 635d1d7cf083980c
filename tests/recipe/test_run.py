"""Two stages, of stand-ins: stopped, killed, failing, done before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glmkd_nemo.recipe import process
from glmkd_nemo.recipe.plan import Recipe, load_recipe
from glmkd_nemo.recipe.run import StageError, run_recipe

HERE = Path(__file__).parent
# run_recipe in a process that can be stopped: the scripts are stand-ins in a folder
PROGRAM = """
import signal, sys
from pathlib import Path
from glmkd_nemo.recipe import main, process
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
process.SCRIPTS = Path(sys.argv[1])
sys.exit(main.main(sys.argv[2:]))
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name in ("pretrain", "finetune"):
        shutil.copyfile(HERE / "stand_in.py", folder / f"{name}.py")
    monkeypatch.setattr(process, "SCRIPTS", folder)
    return folder


def recipe(tmp_path: Path, *changes: str) -> Recipe:
    return load_recipe(str(HERE / "two_stages.yaml"), [f"out={tmp_path / 'out'}", *changes])


def noted(tmp_path: Path) -> list[tuple[str, str]]:
    ledger = tmp_path / "out" / "ledger"
    if not ledger.is_file():
        return []
    return [(what, name) for what, name in map(json.loads, ledger.read_text().splitlines())]


def test_stages_run_in_order_and_only_once(tmp_path: Path, scripts: Path) -> None:
    said: list[str] = []
    notes = run_recipe(recipe(tmp_path), said.append)
    order = ["start", "done"] * 2
    names = ["pretrain", "pretrain", "finetune_rte", "finetune_rte"]
    assert noted(tmp_path) == list(zip(order, names, strict=True))
    assert (notes["pretrain"].state, notes["pretrain"].loss) == ("done", 3.25)
    assert (notes["finetune_rte"].metric, notes["finetune_rte"].score) == ("accuracy", 0.75)
    again = run_recipe(recipe(tmp_path), said.append)
    assert len(noted(tmp_path)) == 4
    assert again == notes
    assert said[-1].endswith("done before")


def test_a_failing_stage_is_named_with_its_log(tmp_path: Path, scripts: Path) -> None:
    broken = recipe(tmp_path, "stages.finetune.model.seed=13")
    with pytest.raises(StageError, match=r"finetune_rte: error: model.seed=13 is out .* see") as at:
        run_recipe(broken, print)
    log = Path(str(at.value).rpartition("see ")[2])
    assert "out of this world" in log.read_text()
    run_recipe(recipe(tmp_path), print)  # with the mistake mended
    assert noted(tmp_path)[-2:] == [("resume", "finetune_rte"), ("done", "finetune_rte")]
    assert [what for what, name in noted(tmp_path) if name == "pretrain"] == ["start", "done"]


def test_other_settings_need_another_folder(tmp_path: Path, scripts: Path) -> None:
    run_recipe(recipe(tmp_path), print)
    run_recipe(recipe(tmp_path, "stages.pretrain.trainer.devices=2"), print)  # a layout may change
    with pytest.raises(ValueError, match=r"stage pretrain was begun with model.optim.lr=0.01, and"):
        run_recipe(recipe(tmp_path, "stages.pretrain.model.optim.lr=0.02"), print)


def test_missing_inputs_are_named_before_anything_runs(tmp_path: Path, scripts: Path) -> None:
    changes = ["data.tokenizer=no/vocab.txt", "stages.pretrain.model.tokenizer.path={tokenizer}"]
    with pytest.raises(ValueError, match=r"data.tokenizer=no/vocab.txt is not there"):
        run_recipe(recipe(tmp_path, *changes), print)
    assert noted(tmp_path) == []


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL],
)
def test_a_stopped_recipe_goes_on(tmp_path: Path, scripts: Path, number: int) -> None:
    """Ctrl-C lets the stage write its checkpoint; a stage whose recipe was killed is waited for."""
    slow = [str(HERE / "two_stages.yaml"), f"out={tmp_path / 'out'}"]
    slow += ["stages.finetune.model.optim.lr=1.5"]
    command = [sys.executable, "-c", PROGRAM, str(scripts), f"recipe={slow[0]}", *slow[1:]]
    run = subprocess.Popen(command, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while ("start", "finetune_rte") not in noted(tmp_path):
            assert run.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        os.kill(run.pid, number)
    code = run.wait(60)
    again = recipe(tmp_path, slow[2])
    said: list[str] = []
    run_recipe(again, said.append)
    found = [what for what, name in noted(tmp_path) if name == "finetune_rte"]
    if number == signal.SIGKILL:
        assert found == ["start", "done"]
        assert "waiting" in said[0]
    else:
        assert code == 130
        assert found == ["start", "stopped", "resume", "done"]
    assert [what for what, name in noted(tmp_path) if name == "pretrain"] == ["start", "done"]
