"""A stage's process: its answer, its errors for the user, its death."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glmkd_nemo.demo.process import StageFailedError, run_apart

ROOT = Path(__file__).resolve().parents[2]


def test_the_answer_comes_back_from_another_process() -> None:
    assert run_apart("operator.add", 2, 3) == 5
    assert run_apart("os.getpid") != os.getpid()


def test_a_message_for_the_user_arrives_as_it_was() -> None:
    with pytest.raises(ValueError, match="gives 1 pieces"):
        run_apart("glmkd_nemo.demo.text.deal_out", ["only one"])


def test_a_stage_that_dies_is_an_error_not_a_hang() -> None:
    with pytest.raises(StageFailedError, match=r"os\._exit ended with code 7"):
        run_apart("os._exit", 7)


def wait_for_ctrl_c(note: str) -> None:
    """Runs until SIGINT, then takes a moment to leave a note, as a training saves a checkpoint."""
    Path(note).with_suffix(".ready").write_text("")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.3)
        Path(note).write_text("checkpoint")
        raise


def test_ctrl_c_lets_the_stage_finish_its_checkpoint(tmp_path: Path) -> None:
    note = tmp_path / "note"
    program = f"""
import signal
from glmkd_nemo.demo.process import run_apart
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
if __name__ == "__main__":
    run_apart("tests.demo.test_process.wait_for_ctrl_c", {str(note)!r})
"""
    script = tmp_path / "script.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while not note.with_suffix(".ready").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    finally:
        process.kill()
    assert note.read_text() == "checkpoint"
