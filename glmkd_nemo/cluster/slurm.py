"""Stages as Slurm jobs, each after those that it needs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from glmkd_nemo.cluster.sbatch import job_script
from glmkd_nemo.cluster.settings import SlurmSettings
from glmkd_nemo.recipe.plan import Recipe, Stage

JOB_ID = "job_id"


@dataclass(frozen=True)
class Submitted:
    """What became of a stage.

    Attributes:
        stage: which.
        state: ``complete``, ``queued before``, ``submitted`` or ``written``.
        job: its job id; a stand-in in a dry run, None if it is complete.
        script: the job script, None if it is complete or queued.
        command: that submits it, as one line.
    """

    stage: Stage
    state: str
    job: str | None = None
    script: Path | None = None
    command: str = ""


class Slurm:
    """Writes and submits job scripts.

    Args:
        recipe: its stages.
        cluster: where.
        folder: the directory that jobs start in; relative paths of stages are below it.
        dry_run: submit nothing.
        queued: jobs of earlier launches, by stage; also of stages that are not launched now.
    """

    def __init__(
        self,
        recipe: Recipe,
        cluster: SlurmSettings,
        folder: Path,
        dry_run: bool,
        queued: Mapping[str, str],
    ) -> None:
        self.recipe, self.cluster, self.folder, self.dry_run = recipe, cluster, folder, dry_run
        self.jobs = dict(queued)

    def launch(self, stage: Stage) -> Submitted:
        """Submits a stage; call it in order.

        Raises:
            OSError: sbatch is not there, or refuses the job (with its words).
        """
        if stage.result.exists():
            return Submitted(stage, "complete")
        if stage.name in self.jobs:
            return Submitted(stage, "queued before", self.jobs[stage.name])
        script = self._write(stage)
        command = self._command(stage, script)
        job = f"JOB_{stage.name}" if self.dry_run else _run(command)
        self.jobs[stage.name] = job
        if not self.dry_run:
            (script.parent / JOB_ID).write_text(job + "\n", encoding="utf-8")
        state = "written" if self.dry_run else "submitted"
        return Submitted(stage, state, job, script, shlex.join(command))

    def _write(self, stage: Stage) -> Path:
        place = launch_folder(stage)
        (stage.folder / "logs").mkdir(parents=True, exist_ok=True)  # Slurm makes no folder
        place.mkdir(parents=True, exist_ok=True)
        path = place / "job.sbatch"
        path.write_text(
            job_script(self.recipe.name, stage, self.cluster, self.folder), encoding="utf-8"
        )
        return path

    def _command(self, stage: Stage, script: Path) -> list[str]:
        jobs = [self.jobs[name] for name in stage.needs if name in self.jobs]
        chain = [f"--dependency=afterok:{':'.join(jobs)}", "--kill-on-invalid-dep=yes"]
        return ["sbatch", "--parsable", *(chain if jobs else []), str(script)]


def queued_jobs(stages: Iterable[Stage], dry_run: bool) -> dict[str, str]:
    """Jobs of earlier launches that are pending or running, by stage.

    Raises:
        OSError: squeue is not there, and this is no dry run.
    """
    jobs = {}
    for stage in stages:
        place = launch_folder(stage) / JOB_ID
        if stage.result.exists() or not place.is_file():
            continue
        if dry_run and shutil.which("squeue") is None:
            continue
        job = place.read_text(encoding="utf-8").strip()
        found = _call(["squeue", "--noheader", "--job", job, "--format", "%T"])
        if found.returncode == 0 and found.stdout.strip():
            jobs[stage.name] = job
    return jobs


def launch_folder(stage: Stage) -> Path:
    """Where the configuration and the job script of a stage are written."""
    return stage.folder / "launch"


def _run(command: list[str]) -> str:
    found = _call(command)
    if found.returncode:
        raise OSError(f"{shlex.join(command)} failed: {found.stderr.strip()}")
    return found.stdout.strip().split(";")[0]  # "ID;CLUSTER" where there are several


def _call(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OSError(
            f"{command[0]} is not on this machine: launch on a login node of the cluster, or write "
            "the job scripts only (dry_run=true)"
        ) from error
