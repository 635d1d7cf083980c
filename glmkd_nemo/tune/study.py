"""Optuna's memory of a search: a database beside the runs, one study for each cell."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glmkd_nemo.tune.plan import Cell


@dataclass(frozen=True)
class Progress:
    """Trials of a study: told a value, and all that were ever asked for."""

    complete: int
    asked: int


def storage(out: Path) -> str:
    """Address of the database."""
    return f"sqlite:///{out.absolute() / 'optuna.db'}"


def name(cell: Cell) -> str:
    """Of the cell's study: another one when anything but the number of trials changes."""
    text = json.dumps([cell.base, cell.space], sort_keys=True, default=str)
    return f"{cell.task}/{cell.method}/{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def take_up(cell: Cell, out: Path, again_from: int = sys.maxsize) -> Progress:
    """How far the study is; what a killed sweep was at is what is tried first.

    Args:
        cell: of the study.
        out: folder of the sweep.
        again_from: failed trials with this number or a later one are tried again too: those that
            were stopped.
    """
    import optuna
    from optuna.trial import TrialState

    with _quiet():
        study = optuna.create_study(
            study_name=name(cell), storage=storage(out), direction="maximize", load_if_exists=True
        )
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                study.enqueue_trial(trial.params)  # first: a kill after it loses nothing
                study.tell(trial.number, state=TrialState.FAIL)
            elif trial.state == TrialState.FAIL and trial.number >= again_from:
                study.enqueue_trial(trial.params)
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    return Progress(complete, len(trials))


@contextmanager
def _quiet() -> Iterator[None]:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
    optuna.logging.set_verbosity(before)
