"""Entry point of ``scripts/launch.py``: settings, stages, what is written and started."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from glmkd_nemo.cluster import local, resolve
from glmkd_nemo.cluster.choice import Choice, check_needs, check_times, chosen
from glmkd_nemo.cluster.nemo_run import experiment_file
from glmkd_nemo.cluster.settings import LaunchSettings, LocalSettings, SlurmSettings, load_settings
from glmkd_nemo.cluster.slurm import Slurm, Submitted, launch_folder, queued_jobs
from glmkd_nemo.config.strict import ConfigError
from glmkd_nemo.recipe.plan import Recipe, Stage
from glmkd_nemo.recipe.run import check_inputs

INCOMPLETE, USER_ERROR = 1, 2


def main(arguments: list[str]) -> int:
    """Launches; exit code 0, 2 (a user's error), or that of a local stage that failed."""
    try:
        return launch(load_settings(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


def launch(settings: LaunchSettings) -> int:
    """Writes every stage's configuration, then submits, runs or exports the stages.

    Raises:
        ValueError: what cannot be; before anything is started.
        OSError: a file that cannot be written, or a Slurm that refuses.
    """
    choice = chosen(settings)
    jobs = _queued(choice, settings)
    if settings.export or not settings.dry_run:
        check_needs(choice, jobs)
    recipe = prepare(choice.recipe, jobs)
    if settings.export:
        return _export(recipe, settings)
    if not settings.dry_run:
        check_inputs(recipe)
    if isinstance(settings.cluster, LocalSettings):
        return _locally(recipe, settings.cluster, settings.dry_run)
    slurm = Slurm(recipe, settings.cluster, Path.cwd(), settings.dry_run, jobs)
    for stage in recipe.stages:
        _show(slurm.launch(stage))
    return 0


def _queued(choice: Choice, settings: LaunchSettings) -> dict[str, str]:
    """Jobs of earlier launches that are pending or running, by stage."""
    if isinstance(settings.cluster, LocalSettings):
        return {}
    check_times(settings.cluster.times, choice)
    if settings.export:
        return {}
    stages = choice.recipe.stages
    others = {other.name: other for stage in stages for other in choice.outside(stage)}
    jobs = queued_jobs([*stages, *others.values()], settings.dry_run)
    stand_ins = {name: f"JOB_{name}" for name in others} if settings.dry_run else {}
    return stand_ins | jobs


def prepare(recipe: Recipe, queued: Collection[str] = ()) -> Recipe:
    """Checks all stages and writes ``<stage folder>/launch/config.yaml`` of each.

    Args:
        recipe: what is launched.
        queued: stages whose jobs will read these files: they stay as they are.

    Returns:
        The recipe with absolute folders, and the nodes and devices of the configurations.

    Raises:
        ConfigError: a stage's key or value that cannot be, or is not the one it was begun with.
    """
    found = []
    for stage in recipe.stages:
        absolute = replace(stage, folder=stage.folder.absolute(), result=stage.result.absolute())
        found.append(resolve.resolved(absolute))
        resolve.check_same(*found[-1], launch_folder(absolute))
    for stage, plain in found:
        if stage.name not in queued:
            resolve.write(stage, plain, launch_folder(stage))
    return replace(recipe, out=recipe.out.absolute(), stages=tuple(stage for stage, _ in found))


def _export(recipe: Recipe, settings: LaunchSettings) -> int:
    if not isinstance(settings.cluster, SlurmSettings):
        raise ConfigError(f"export={settings.export} needs cluster=slurm, or a file of this kind")
    path = recipe.out / f"{recipe.name}_nemo_run.py"
    path.write_text(experiment_file(recipe, settings.cluster, path, Path.cwd()), encoding="utf-8")
    print(f"wrote {path}: run it where nemo_run is installed")
    return 0


def _locally(recipe: Recipe, cluster: LocalSettings, dry_run: bool) -> int:
    commands = {stage.name: local.command(stage, cluster) for stage in recipe.stages}
    for number, stage in enumerate(recipe.stages, 1):
        title = f"stage {number} of {len(recipe.stages)}: {stage.name}"
        if stage.result.exists():
            print(f"{title}: complete before", flush=True)
            continue
        print(title, flush=True)
        if dry_run:
            print("  " + " \\\n    ".join(commands[stage.name]))
            continue
        code = local.run(stage, cluster)
        if code:
            note = f"{title} ended with code {code}; the same command goes on from here"
            print(note, file=sys.stderr, flush=True)
            return code if code > 0 else INCOMPLETE
        if not stage.result.exists():
            raise OSError(f"{title} ended without {stage.result}")
    return 0


def _show(done: Submitted) -> None:
    stage: Stage = done.stage
    size = f"{stage.nodes} node{'s' if stage.nodes > 1 else ''} x {stage.devices}"
    job = f" as job {done.job}" if done.state in ("submitted", "queued before") else ""
    print(f"{stage.name} ({size}): {done.state}{job}", flush=True)
    if done.script is not None:
        print(f"  {done.script}\n  {done.command}", flush=True)
