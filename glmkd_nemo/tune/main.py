"""Entry point of ``scripts/tune.py``: what is run, Ctrl-C, errors for the user, the tables."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from glmkd_nemo.demo.process import StageFailedError, run_apart
from glmkd_nemo.demo.terminal import print_line
from glmkd_nemo.tune import report, study, sweep
from glmkd_nemo.tune.locks import try_lock
from glmkd_nemo.tune.plan import Cell, Configuration, cells, waves
from glmkd_nemo.tune.progress import Progress
from glmkd_nemo.tune.results import configurations, ranking, read_result, run_folder, seed_folder
from glmkd_nemo.tune.run import Runner
from glmkd_nemo.tune.settings import FINETUNE, TuneSettings, load_settings

INCOMPLETE, USER_ERROR, STOPPED = 1, 2, 130


def main(arguments: list[str]) -> int:
    """Tunes; exit code 0, 1 (a run failed), 2 (a user's error) or 130 (stopped)."""
    args = _parser().parse_args(arguments)
    try:
        settings = load_settings(args.settings)
        ordered = waves(cells(settings))
        check_cells([cell for wave in ordered for cell in wave], settings.trials is not None)
        Path(settings.out).mkdir(parents=True, exist_ok=True)
        return Tuning(settings, ordered).show() if args.show else Tuning(settings, ordered).run()
    except (ValueError, OSError, StageFailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("\nstopped at once; the same command goes on from here", file=sys.stderr)
        return STOPPED


def check_cells(every: list[Cell], search: bool) -> None:
    """Checks overrides in a process of its own: NeMo, imported here, would be in all workers too.

    Raises:
        ConfigError: one message with all problems.
    """
    run_apart("glmkd_nemo.tune.check.check_cells", every, search)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Fine-tunes tasks x methods x hyper-parameters x seeds; finds the best."
    )
    parser.add_argument(
        "settings", nargs="*", metavar="FILE.yaml or KEY=VALUE", help="changes of conf/tune.yaml"
    )
    parser.add_argument("--show", action="store_true", help="only the tables of what is done")
    return parser


class Tuning:
    """One sweep.

    Args:
        settings: of ``conf/tune.yaml``.
        ordered: cells, in waves: a wave may name the best runs of those before it.
    """

    def __init__(self, settings: TuneSettings, ordered: list[list[Cell]]) -> None:
        self.settings, self.ordered = settings, ordered
        self._known: dict[tuple[str, str], Cell] = {}
        self.out = Path(settings.out).absolute()
        self.root = self.out / "runs"
        command = list(settings.command or FINETUNE)
        if command[0] == "python":
            command[0] = sys.executable
        gpus = settings.gpus or []
        stop = self.out / f"stop-{os.getpid()}"
        self.runner = Runner(self.root, settings.seeds, command, gpus, settings.hopeless, stop)

    def run(self) -> int:
        """Runs what is not done.

        Raises:
            ValueError: another process does so.
        """
        lock = try_lock(self.out / "lock")
        if lock is None:
            raise ValueError(f"another tune.py is at work in {self.out}: wait for it, or stop it")
        done: list[Cell] = []
        with _stoppable(self.runner.stop):
            for number, wave in enumerate(self.ordered, 1):
                if len(self.ordered) > 1:
                    names = ", ".join(dict.fromkeys(cell.method for cell in wave))
                    print_line(f"stage {number} of {len(self.ordered)}: {names}")
                ready = self._ready(wave)
                done += ready
                self._wave(ready)
                if self.runner.stop.exists():
                    break
            stopped = self.runner.stop.exists()
        os.close(lock)
        code = self._report(done)
        if stopped:
            print_line("stopped; the same command goes on from here")
        return STOPPED if stopped else code

    def show(self) -> int:
        """Only the tables."""
        return self._report([cell for wave in self.ordered for cell in self._ready(wave)])

    def _ready(self, wave: list[Cell]) -> list[Cell]:
        """The cells of a wave whose named best runs there are, with the folders of these."""
        ready = []
        for cell in wave:
            folders = {name: self._best(cell.task, name) for name in cell.waits_for()}
            found = {name: folder for name, folder in folders.items() if folder is not None}
            for name in folders.keys() - found.keys():
                print_line(f"{cell.task}: {cell.method} needs {name}, which has no finished run")
            if len(found) == len(folders):
                ready.append(cell.with_best(found))
                self._known[cell.task, cell.method] = ready[-1]
        return ready

    def _best(self, task: str, method: str) -> Path | None:
        cell = self._known.get((task, method))
        if cell is None:
            return None
        ranked = ranking(self.root, configurations(self.root, cell), self.settings.seeds)
        if not ranked:
            return None
        best = ranked[0]
        return run_folder(seed_folder(self.root, best.configuration, best.best_seed))

    def _wave(self, wave: list[Cell]) -> None:
        searched = [cell for cell in wave if self.settings.trials is not None and cell.space]
        self._enumerate([cell for cell in wave if cell not in searched])
        if self.settings.trials is None or not searched or self.runner.stop.exists():
            return
        before = sum(study.take_up(cell, self.out).complete for cell in searched)
        trials = self.settings.trials * len(searched)
        print_line(f"{trials} trials, {before} of them done before; {self.out}")
        left = max(trials - before, 0) * len(self.settings.seeds)
        with Progress(self.root, left, print_line):
            for cell in searched:
                sweep.search(self.settings, self.runner, cell)

    def _enumerate(self, found: list[Cell]) -> None:
        every = self._runs(found)
        runs = [run for run in every if self._is_open(*run)]
        if every:
            done = len(every) - len(runs)
            print_line(f"{len(every)} runs, {done} of them done before; {self.out}")
        if runs:
            with Progress(self.root, len(runs), print_line):
                sweep.enumerate_runs(self.settings, self.runner, runs)

    def _runs(self, wave: list[Cell]) -> list[tuple[Configuration, int]]:
        """Every configuration with its first seed before any with its second."""
        grid = [configuration for cell in wave for configuration in cell.grid()]
        return [(configuration, seed) for seed in self.settings.seeds for configuration in grid]

    def _is_open(self, configuration: Configuration, seed: int) -> bool:
        return read_result(seed_folder(self.root, configuration, seed)) is None

    def _report(self, done: list[Cell]) -> int:
        found = report.collect(self.root, done, self.settings.seeds)
        s = self.settings
        facts = {
            "seeds": ", ".join(map(str, s.seeds)),
            "search": f"{s.trials} trials ({s.sampler})" if s.trials else "all combinations",
            **{key: str(value) for key, value in (s.space | s.overrides).items()},
        }
        report.write(found, self.out, facts)
        from glmkd_nemo.tune.terminal import print_tables

        print_tables(found, self.out / "tune.html")
        return INCOMPLETE if any(note.failed for note in found.not_run) else 0


@contextmanager
def _stoppable(stop: Path) -> Iterator[None]:
    """Ctrl-C (or SIGTERM) asks runs to end, each with a checkpoint; a second one does not wait."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()
        print_line("\nstopping: waiting for the running ones to save; again Ctrl-C: at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    for leftover in stop.parent.glob("stop-*"):
        leftover.unlink()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
