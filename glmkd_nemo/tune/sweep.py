"""Hydra's multirun: its sweepers enumerate or search, its launchers run jobs in parallel."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf

from glmkd_nemo.config.strict import ConfigError
from glmkd_nemo.report.json_file import read_json
from glmkd_nemo.tune import study
from glmkd_nemo.tune.locks import Stopped
from glmkd_nemo.tune.plan import Cell, Configuration
from glmkd_nemo.tune.results import CONFIGURATION
from glmkd_nemo.tune.run import RunFailedError, Runner
from glmkd_nemo.tune.settings import ROOT, TuneSettings, flat
from glmkd_nemo.tune.spelling import spell

TaskFunction = Callable[[DictConfig], Any]
_NO_BEST_TRIAL = ("No trials are completed", "Record does not exist")  # Optuna: cached, stored


def enumerate_runs(
    settings: TuneSettings, runner: Runner, runs: list[tuple[Configuration, int]]
) -> None:
    """Runs all of `runs` (configuration, seed), by Hydra's basic sweeper.

    A run that fails leaves a note, and the others go on.

    Raises:
        ConfigError: the launcher is not there, or has no such option.
    """
    for configuration, _ in runs:
        runner.note(configuration)
    keys = ",".join(f"'{configuration.key}/seed{seed}'" for configuration, seed in runs)

    def task(cfg: DictConfig) -> None:
        _leave_ctrl_c_to_the_sweep()
        key, _, seed = str(cfg.run).rpartition("/seed")
        try:
            runner.run(_read(runner.root, key), int(seed))
        except (RunFailedError, Stopped):
            return

    _multirun(task, [*_launcher(settings), "hydra/sweeper=basic", f"+run={keys}"])


def search(settings: TuneSettings, runner: Runner, cell: Cell) -> None:
    """Trials of one cell, by Hydra's Optuna sweeper: the mean score over seeds is maximised.

    A batch (as many trials as run at a time) is one multirun, so that a stop ends the search.

    Raises:
        ConfigError: see :func:`enumerate_runs`; or the sampler is unknown.
    """
    assert settings.trials is not None
    out = Path(settings.out)
    while not runner.stop.exists():
        progress = study.take_up(cell, out)
        left = settings.trials - progress.complete
        if left <= 0:
            return
        batch = min(left, settings.at_a_time)
        sampler = {"sampler.seed": settings.seeds[0] + progress.asked, "n_trials": batch}
        sweeper = {
            **{"n_jobs": batch, "direction": "maximize", "max_failure_rate": 1.0},
            **{"storage": study.storage(out), "study_name": study.name(cell), **sampler},
        }
        overrides = [*_launcher(settings), "hydra/sweeper=optuna"]
        overrides += [f"hydra/sweeper/sampler={settings.sampler}"]
        overrides += [f"hydra.sweeper.{key}={spell(value)}" for key, value in sweeper.items()]
        overrides += [f"+point.{key}={interval(value)}" for key, value in cell.space.items()]
        _multirun(_trial(runner, cell), overrides)
        if runner.stop.exists():
            study.take_up(cell, out, again_from=progress.asked)
        elif study.take_up(cell, out).complete == progress.complete:
            return  # nothing but failures: more of them would not help


def _trial(runner: Runner, cell: Cell) -> TaskFunction:
    def task(cfg: DictConfig) -> float:
        _leave_ctrl_c_to_the_sweep()
        point: Any = OmegaConf.to_container(cfg.point)
        configuration = cell.configuration(flat(point))
        runner.note(configuration)
        results = [runner.run(configuration, seed) for seed in runner.seeds]
        return fmean(result.score for result in results if result is not None)

    return task


def interval(value: Any) -> str:
    """An entry of the space as a sweep of Hydra: ``choice(...)``, or the interval as it was given.

    Raises:
        ConfigError: it is none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not isinstance(value, str):
        choices = value if isinstance(value, list) else [value]
        return f"choice({','.join(spell(choice) for choice in choices)})"
    try:
        if OverridesParser.create().parse_override(f"x={value}").is_sweep_override():
            return value
    except HydraException as error:
        raise ConfigError(f"{value}: {str(error).splitlines()[0]}") from error
    return f"choice({spell(value)})"


def _read(root: Path, key: str) -> Configuration:
    content = read_json(root / key / CONFIGURATION)
    if content is None:
        raise ConfigError(f"{root / key / CONFIGURATION} is gone: start the sweep again")
    task, method, _ = key.split("/")
    return Configuration(task, method, content["base"], content["values"])


def _launcher(settings: TuneSettings) -> list[str]:
    options = dict(settings.launcher_options)
    if settings.launcher == "joblib":  # a long run must not wait behind another in one batch
        options = {"n_jobs": settings.at_a_time, "batch_size": 1, **options}
    return [
        f"hydra/launcher={settings.launcher}",
        *(f"hydra.launcher.{key}={spell(value)}" for key, value in options.items()),
        f"hydra.sweep.dir={spell(str(Path(settings.out).absolute() / 'hydra'))}",
        "hydra.sweep.subdir=.",
        "hydra.output_subdir=null",
        "hydra/hydra_logging=none",  # "disabled" would close the handlers of other libraries
        "hydra/job_logging=none",
    ]


def _leave_ctrl_c_to_the_sweep() -> None:
    """A terminal sends it to workers too. Not ignored but caught: runs would inherit the former."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, lambda signum, frame: None)


def _multirun(task: TaskFunction, overrides: list[str]) -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    GlobalHydra.instance().clear()
    with _arguments(["--multirun", *overrides]), _errors_only("hydra", "hydra_plugins", "optuna"):
        try:
            hydra.main(version_base="1.3", config_path=None)(task)()
        except HydraException as error:
            said = re.split("Config search path|To append", str(error))[0].strip()
            raise ConfigError(f"launcher, launcher_options or sampler: {said}") from error
        except ValueError as error:  # the sweeper wants a best trial, and there is none
            if not str(error).startswith(_NO_BEST_TRIAL):
                raise
        finally:
            GlobalHydra.instance().clear()


@contextmanager
def _errors_only(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _arguments(arguments: list[str]) -> Iterator[None]:
    """Hydra reads them from `sys.argv`, and raises instead of leaving when this is set."""
    before, environment = sys.argv, dict(os.environ)
    sys.argv = [before[0], *arguments]
    path = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    os.environ.update(HYDRA_FULL_ERROR="1", PYTHONPATH=os.pathsep.join(path))
    try:
        yield
    finally:
        sys.argv = before
        os.environ.clear()
        os.environ.update(environment)
