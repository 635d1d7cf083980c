"""One run: scripts/finetune.py in a process of its own, at most once at a time, at most once done.

Runs on whatever machine Hydra's launcher chose; all it knows of the sweep is on disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean

from glmkd_nemo.report.json_file import write_json
from glmkd_nemo.tune.locks import Stopped, locked, one_of
from glmkd_nemo.tune.plan import Cell, Configuration
from glmkd_nemo.tune.results import (
    CONFIGURATION,
    LOG,
    NOT_RUN,
    Result,
    configurations,
    ranking,
    read_result,
    run_folder,
    seed_folder,
)
from glmkd_nemo.tune.spelling import spell

LONGEST_POLL_SECONDS = 0.5
_HEADER = "# started "
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


class RunFailedError(RuntimeError):
    """A run ended without a result; the message is the last line that it printed."""


@dataclass(frozen=True)
class Runner:
    """Runs configurations; it is sent to where they run.

    Attributes:
        root: folder of all runs.
        seeds: of all configurations.
        command: what a run starts.
        gpus: entries for CUDA_VISIBLE_DEVICES, one for each run at a time; empty: left alone.
        hopeless: see ``conf/tune.yaml``.
        stop: while this file is there, runs stop, and none starts.
    """

    root: Path
    seeds: list[int]
    command: list[str]
    gpus: list[str]
    hopeless: float | None
    stop: Path

    def run(self, configuration: Configuration, seed: int) -> Result | None:
        """Runs what is not done; None where it is left out as hopeless.

        Raises:
            RunFailedError: it ended without a result.
            Stopped: the user stopped the sweep before it was done.
        """
        folder = seed_folder(self.root, configuration, seed)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", self.stop.exists) as lock:
            done = read_result(folder)
            if done is not None:
                return done
            (folder / NOT_RUN).unlink(missing_ok=True)
            reason = self._hopeless(configuration)
            if reason:
                write_json(folder / NOT_RUN, {"failed": False, "reason": reason})
                return None
            return self._finetune(configuration, seed, folder, lock)

    def note(self, configuration: Configuration) -> None:
        """Says what a configuration is, in its folder."""
        content = {"base": configuration.base, "values": configuration.values}
        write_json(self.root / configuration.key / CONFIGURATION, content)

    def _hopeless(self, configuration: Configuration) -> str:
        if self.hopeless is None:
            return ""
        cell = Cell(
            configuration.task, configuration.method, configuration.base, configuration.values
        )
        ranked = ranking(self.root, configurations(self.root, cell), self.seeds)
        own = next((t for t in ranked if t.configuration.key == configuration.key), None)
        if own is None:
            return ""
        like = [t for t in ranked if own.results.keys() <= t.results.keys()]  # on the same seeds
        best = max(fmean(t.results[s].score for s in own.results) for t in like)
        behind = best - own.score
        return f"{behind:.4g} below the best" if behind > self.hopeless else ""

    def _finetune(self, configuration: Configuration, seed: int, folder: Path, lock: int) -> Result:
        with contextlib.ExitStack() as stack:
            environment, held = dict(os.environ), [lock]
            if self.gpus:
                slot, files = stack.enter_context(one_of(self.gpus, self.stop.exists))
                environment["CUDA_VISIBLE_DEVICES"] = slot
                held += files
            if self.stop.exists():
                raise Stopped
            command = [*self.command, *arguments(configuration, seed, run_folder(folder))]
            code = self._child(command, folder / LOG, environment, held)
        result = read_result(folder)
        if result is not None:
            return result
        if self.stop.exists():
            raise Stopped
        reason = f"{_last_line(folder / LOG)} (exit code {code})"
        write_json(folder / NOT_RUN, {"failed": True, "reason": reason})
        raise RunFailedError(f"{reason}; see {folder / LOG}")

    def _child(
        self, command: list[str], log: Path, environment: dict[str, str], held: list[int]
    ) -> int:
        """Exit code of `command`. It has the locks too: they last as long as it lives.

        It is in a session of its own, so that Ctrl-C reaches it once, from here, and it ends with
        a checkpoint; SIGTERM when this process dies does the same.
        """
        with log.open("a", encoding="utf-8") as output:
            output.write(f"{_HEADER}{datetime.now():%F %T}: {shlex.join(command)}\n")
            output.flush()
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=held,
                start_new_session=True,
                preexec_fn=_ends_with_parent(),
            )
        asked, delay = False, 0.02
        while (code := child.poll()) is None:
            if not asked and self.stop.exists():
                child.send_signal(signal.SIGINT)
                asked = True
            time.sleep(delay)
            delay = min(2 * delay, LONGEST_POLL_SECONDS)
        return code


def arguments(configuration: Configuration, seed: int, folder: Path) -> list[str]:
    """Overrides of scripts/finetune.py for one run that writes into `folder`."""
    given = {"name": f"{configuration.task}-{configuration.method}", "model.seed": seed}
    given |= configuration.overrides(seed)
    given["exp_manager.explicit_log_dir"] = str(folder.absolute())
    return [f"{key}={spell(value)}" for key, value in given.items()]


def _ends_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # before the fork

    def ask() -> None:
        libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM)

    return ask


def _last_line(log: Path) -> str:
    """What the newest attempt said last, its message for the user if it had one."""
    said: list[str] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        said = [] if line.startswith(_HEADER) else [*said, line.strip()] if line.strip() else said
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or said or ["it printed nothing"])[-1]
