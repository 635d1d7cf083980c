"""What runs leave on disk, and which configuration of a cell is the best."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmkd_nemo.report.json_file import read_json
from glmkd_nemo.tune.plan import Cell, Configuration

CONFIGURATION, RESULTS, NOT_RUN, LOG = "config.json", "results.json", "not_run.json", "log.txt"


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        metric: name of the task's main metric.
        value: the best one on the development set.
        lower_is_better: of that metric.
        step: optimizer step that it was measured at.
        metrics: all metrics of that step.
        seconds: of the run.
        others: the main metric of ``majority``, of the ``test`` set by the best weights, and of
            ``test_majority``: what there is of them.
    """

    metric: str
    value: float
    lower_is_better: bool
    step: int
    metrics: dict[str, float]
    seconds: float
    others: dict[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The value, with a sign so that higher is better."""
        return -self.value if self.lower_is_better else self.value


@dataclass(frozen=True)
class Tried:
    """A configuration and its finished runs, by seed."""

    configuration: Configuration
    results: dict[int, Result]

    @property
    def score(self) -> float:
        """Mean over its seeds; higher is better."""
        return statistics.fmean(result.score for result in self.results.values())

    @property
    def mean(self) -> float:
        """Mean of the main metric."""
        return statistics.fmean(result.value for result in self.results.values())

    @property
    def deviation(self) -> float:
        """Sample standard deviation over seeds (0 of one seed)."""
        values = [result.value for result in self.results.values()]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def any_result(self) -> Result:
        """Says what the metric is."""
        return next(iter(self.results.values()))

    @property
    def best_seed(self) -> int:
        """The first of those with the highest score."""
        return max(self.results, key=lambda seed: self.results[seed].score)


@dataclass(frozen=True)
class NotRun:
    """A run that failed, or was left out."""

    key: str
    failed: bool
    reason: str
    log: str


def seed_folder(root: Path, configuration: Configuration, seed: int) -> Path:
    """Folder of one run, below the folder of all runs."""
    return root / configuration.key / f"seed{seed}"


def run_folder(folder: Path) -> Path:
    """What scripts/finetune.py has for itself: NeMo moves other files in it when it resumes."""
    return folder / "run"


def read_result(folder: Path) -> Result | None:
    """The result of the run in `folder`; None where it is not complete.

    Raises:
        ValueError: a file that is complete and not a result.
    """
    path = run_folder(folder) / RESULTS
    found = read_json(path)
    if found is None:
        return None
    try:
        metric = str(found["main_metric"])
        best = found["best"]
        numbers = {str(name): float(value) for name, value in best["metrics"].items()}
        lower = bool(found.get("lower_is_better", False))
        step, seconds = int(best["step"]), float(found.get("seconds", 0.0))
        others = _others(found, metric)
        return Result(metric, numbers[metric], lower, step, numbers, seconds, others)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: no result of a fine-tuning ({error!r}); remove it") from error


def _others(found: dict[str, Any], metric: str) -> dict[str, float]:
    test = found.get("test") or {}
    places = {
        "majority": found.get("baseline"),
        "test": test.get("metrics"),
        "test_majority": test.get("baseline"),
    }
    return {name: float(metrics[metric]) for name, metrics in places.items() if metrics}


def read_not_run(root: Path, folder: Path) -> NotRun | None:
    """Why the run in `folder` has no result, if it was tried."""
    found = read_json(folder / NOT_RUN)
    if found is None:
        return None
    key = folder.relative_to(root).as_posix()
    return NotRun(key, bool(found["failed"]), str(found["reason"]), str(folder / LOG))


def configurations(root: Path, cell: Cell) -> list[Configuration]:
    """The configurations of a cell that are on disk, whichever way their values were found."""
    found = []
    for path in sorted((root / cell.task / cell.method).glob(f"*/{CONFIGURATION}")):
        content = read_json(path)
        if content is None or content["base"] != cell.base:
            continue  # of other settings: another number of steps, for instance
        if content["values"].keys() == cell.space.keys():
            found.append(cell.configuration(content["values"]))
    return found


def ranking(root: Path, tried: list[Configuration], seeds: list[int]) -> list[Tried]:
    """Those with a finished run, best first; of all seeds before of some of them."""
    found = []
    for configuration in tried:
        results = {s: read_result(seed_folder(root, configuration, s)) for s in seeds}
        whole = {seed: result for seed, result in results.items() if result is not None}
        if whole:
            found.append(Tried(configuration, whole))
    return sorted(found, key=lambda t: (-len(t.results), -t.score))
