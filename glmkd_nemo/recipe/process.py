"""Commands of stages: as programs of their own, or forked from a server that has NeMo loaded.

The second way saves the ten seconds that importing NeMo takes; for stages of a few steps that is
most of their time. It is for one process without CUDA.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from glmkd_nemo.demo.process import StageFailedError, run_apart, warm_up

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TRAININGS = "glmkd_nemo.recipe.trainings"
_HEADER = "# started "
Command = Callable[[str, Sequence[str], Path], int]  # script, arguments, log -> exit code


def separately(script: str, arguments: Sequence[str], log: Path, lock: int | None = None) -> int:
    """``python scripts/<script>.py *arguments``, its output added to `log`; the exit code.

    It is in a session of its own: Ctrl-C reaches it once, from here, and it ends with a checkpoint
    (a second Ctrl-C ends it at once). It holds `lock` as long as it lives, should this process be
    killed.

    Raises:
        KeyboardInterrupt: Ctrl-C; the command has ended.
    """
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), *arguments]
    with log.open("a", encoding="utf-8") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[] if lock is None else [lock],
            start_new_session=True,
        )
        try:
            return child.wait()
        except KeyboardInterrupt:
            _stop(child)
            raise


def _stop(child: subprocess.Popen[bytes]) -> None:
    try:
        child.send_signal(signal.SIGINT)
        child.wait()
    except KeyboardInterrupt:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def forked(script: str, arguments: Sequence[str], log: Path) -> int:
    """The same from the server of :func:`warm`.

    Raises:
        KeyboardInterrupt: Ctrl-C; the command has ended.
    """
    path = SCRIPTS / f"{script}.py"
    try:
        return int(run_apart(f"{TRAININGS}.script", path, list(arguments), log))
    except (ValueError, OSError) as error:
        with log.open("a", encoding="utf-8") as output:
            output.write(f"error: {error}\n")
        return 1
    except StageFailedError:  # its traceback is in the log; or it was killed
        return -1


def warm() -> None:
    """Starts the server of :func:`forked`."""
    warm_up(TRAININGS)


def note_start(script: str, arguments: Sequence[str], log: Path) -> None:
    """A line in the log, by which attempts are told apart."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", f"scripts/{script}.py", *arguments])
    with log.open("a", encoding="utf-8") as output:
        output.write(f"{_HEADER}{datetime.now():%F %T}: {command}\n")


def newest_attempt(log: Path) -> list[str]:
    """Lines that the newest attempt printed, without blank ones."""
    said: list[str] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        said = [] if line.startswith(_HEADER) else [*said, line.strip()]
    return [line for line in said if line]


def last_words(log: Path) -> str:
    """What the newest attempt said last: its message for the user if it had one."""
    said = newest_attempt(log)
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or said or ["it printed nothing"])[-1]
