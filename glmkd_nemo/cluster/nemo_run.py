"""The stages as a Python file for NeMo-Run, which is neither needed nor imported here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from glmkd_nemo.cluster.sbatch import gpus_per_node, mounts, tasks_per_node, time_limit
from glmkd_nemo.cluster.settings import ROOT, SlurmSettings
from glmkd_nemo.recipe.plan import Recipe, Stage

_HEAD = '''"""Stages of {name} with NeMo-Run: python {file}, where nemo_run is installed."""

import nemo_run as run


def main() -> None:
    """Submits the stages, each after those that it needs."""
    with run.Experiment({name!r}) as experiment:
        jobs = {{}}
'''
_STAGE = """        jobs[{name!r}] = experiment.add(
            run.Script(
                path={chdir!r},  # NeMo-Run starts in a folder of its own
                entrypoint="env",
                args={arguments},
            ),
            executor=run.SlurmExecutor(
{executor}
                packager=run.Packager(),
                tunnel=run.LocalTunnel(job_dir={job_dir!r}),
            ),
            name={name!r},
            dependencies=[jobs[name] for name in {needs!r}],
        )
"""
_TAIL = """        experiment.run(detach=True)


if __name__ == "__main__":
    main()
"""


def experiment_file(recipe: Recipe, cluster: SlurmSettings, path: Path, folder: Path) -> str:
    """The text of ``path``: an Experiment of the stages that are not complete.

    Stages start in ``folder``, which relative paths are below.
    NeMo-Run chains jobs (afterok) and keeps its own logs; it neither checks nodes nor requeues.
    """
    stages = [stage for stage in recipe.stages if not stage.result.exists()]
    names = {stage.name for stage in stages}
    parts = [_part(stage, cluster, names, recipe.out, folder) for stage in stages]
    return _HEAD.format(name=recipe.name, file=path.name) + "".join(parts) + _TAIL


def _part(stage: Stage, cluster: SlurmSettings, names: set[str], out: Path, folder: Path) -> str:
    python = cluster.python or "python"
    lines = (
        f"                {key}={value!r},"
        for key, value in _executor(stage, cluster, folder).items()
    )
    script = f"{cluster.repository or ROOT}/scripts/{stage.script}.py"
    # NeMo-Run puts arguments into its shell script as they are
    words = [shlex.quote(word) for word in (python, script, *stage.arguments)]
    listed = "".join(f"\n                    {word!r}," for word in words)
    return _STAGE.format(
        name=stage.name,
        chdir=shlex.quote(f"--chdir={folder}"),
        arguments=f"[{listed}\n                ]",
        executor="\n".join(lines),
        job_dir=str(out.absolute() / "nemo_run"),
        needs=[name for name in stage.needs if name in names],
    )


def _executor(stage: Stage, cluster: SlurmSettings, folder: Path) -> dict[str, Any]:
    given: dict[str, Any] = {
        "account": cluster.account or "",
        "partition": cluster.partition,
        "qos": cluster.qos,
        "nodes": stage.nodes,
        "ntasks_per_node": tasks_per_node(stage),
        "gpus_per_node": gpus_per_node(stage, cluster) or None,
        "cpus_per_task": cluster.cpus_per_task,
        "mem": cluster.mem,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "exclusive": cluster.exclusive or None,
        "time": time_limit(stage, cluster),
        "signal": f"TERM@{cluster.signal_seconds}",
        "container_image": cluster.container.image,
        "container_mounts": mounts(cluster, folder) if cluster.container.image else [],
        "srun_args": ["--kill-on-bad-exit=1", *cluster.container.options],
        "env_vars": {name: str(value) for name, value in cluster.env.items()},
        "additional_parameters": {k.replace("-", "_"): v for k, v in cluster.options.items()},
        "setup_lines": "\n".join(cluster.setup) or None,
    }
    return {key: value for key, value in given.items() if value is not None}
