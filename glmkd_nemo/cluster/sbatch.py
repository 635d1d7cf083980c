"""The job script of a stage: what is the stage's on top, what is every stage's below."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from glmkd_nemo.cluster.body import BODY
from glmkd_nemo.cluster.settings import ROOT, SlurmSettings
from glmkd_nemo.config.strict import ConfigError
from glmkd_nemo.recipe.plan import SCHEMAS, Stage


def job_script(recipe: str, stage: Stage, cluster: SlurmSettings, folder: Path) -> str:
    """The text of a stage's sbatch script.

    Args:
        recipe: its name, for the job's.
        stage: what is run.
        cluster: where.
        folder: the directory that the job starts in.

    Raises:
        ConfigError: an option of sbatch with a line break.
    """
    options = _options(recipe, stage, cluster, folder)
    header = "\n".join(f"#SBATCH {_for_sbatch(option)}" for option in options)
    settings = "\n".join(_settings(stage, cluster, folder))
    title = (
        f"# Stage {stage.name} of {recipe}, written by scripts/launch.py: submit it with sbatch."
    )
    return f"#!/bin/bash\n{title}\n{header}\n\n{settings}\n{BODY}"


def job_name(recipe: str, stage: Stage) -> str:
    """Name of a stage's job: ``RECIPE-STAGE``."""
    return f"{recipe}-{stage.name}"


def tasks_per_node(stage: Stage) -> int:
    """One per device, where the script joins processes; else one that starts its own."""
    return stage.devices if stage.script in SCHEMAS else 1


def gpus_per_node(stage: Stage, cluster: SlurmSettings) -> int:
    """GPUs that a node gives to the stage."""
    return stage.devices if "gpu" in (cluster.gres or "") else 0


def time_limit(stage: Stage, cluster: SlurmSettings) -> str:
    """``times`` has the stage's full name, or what stands before ``_TASK`` in it."""
    keys = [key for key in cluster.times if is_of(key, stage.name)]
    return cluster.times[max(keys, key=len)] if keys else cluster.time


def is_of(key: str, name: str) -> bool:
    """Whether a key of ``times`` is a stage's: its name, or that of it without a task."""
    return name == key or name.startswith(f"{key}_")


def container_options(cluster: SlurmSettings, folder: Path) -> Iterator[str]:
    """Options of srun for the container, if there is one, which starts in ``folder``."""
    if cluster.container.image:
        yield f"--container-image={cluster.container.image}"
        yield f"--container-mounts={','.join(mounts(cluster, folder))}"
        yield f"--container-workdir={folder}"  # else the image's own
        yield from cluster.container.options


def mounts(cluster: SlurmSettings, folder: Path) -> list[str]:
    """The container's mounts, with ``folder``: relative paths of a stage are below it."""
    given = cluster.container.mounts
    inside = [(mount.split(":") + mount.split(":"))[1] for mount in given]  # SRC:DST, or SRC alone
    there = any(folder.is_relative_to(PurePosixPath(place)) for place in inside)
    return [*given, *([] if there else [f"{folder}:{folder}"])]


def _options(recipe: str, stage: Stage, cluster: SlurmSettings, folder: Path) -> Iterator[str]:
    yield f"--job-name={job_name(recipe, stage)}"
    yield f"--nodes={stage.nodes}"
    yield f"--ntasks-per-node={tasks_per_node(stage)}"
    gres = cluster.gres.format(devices=stage.devices) if cluster.gres else None
    given = {
        "gres": gres,
        "cpus-per-task": cluster.cpus_per_task,
        "mem": cluster.mem,
        "time": time_limit(stage, cluster),
        "account": cluster.account,
        "partition": cluster.partition,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
    }
    yield from (f"--{name}={value}" for name, value in given.items() if value is not None)
    if cluster.exclusive:
        yield "--exclusive"
    for name, value in cluster.options.items():
        yield f"--{name}" if value is True else f"--{name}={value}"
    yield f"--signal=B:TERM@{cluster.signal_seconds}"
    yield "--requeue"
    yield "--open-mode=append"
    yield f"--chdir={folder}"
    yield f"--output={str(stage.folder).replace('%', '%%')}/logs/%x-%j.log"


def _for_sbatch(option: str) -> str:
    """An option as sbatch reads it in a script: with the quotes and backslashes of a shell."""
    if "\n" in option:
        raise ConfigError(
            f"{option!r}: sbatch takes no line break in an option, write it as one line"
        )
    if re.fullmatch(r"[\w@%+=:,./-]*", option):
        return option
    name, equals, value = option.partition("=")
    escaped = re.sub(r'([\\"])', r"\\\1", value)
    return f'{name}{equals}"{escaped}"'


def _settings(stage: Stage, cluster: SlurmSettings, folder: Path) -> Iterator[str]:
    repository = cluster.repository or str(ROOT)
    python = cluster.python or ("python" if cluster.container.image else sys.executable)
    yield f"repository={shlex.quote(repository)}"
    yield f"folder={shlex.quote(str(stage.folder))}"
    yield f"result={shlex.quote(str(stage.result))}  # when it is there, the stage is complete"
    yield f"max_requeues={cluster.max_requeues}"
    yield f"container=({_words(container_options(cluster, folder))})"
    if cluster.check_nodes:
        gpus = gpus_per_node(stage, cluster)
        yield f'check=({shlex.quote(python)} "$repository/glmkd_nemo/cluster/node.py"'
        yield f'  --folder "$folder" --free-gb {cluster.free_gb:g} --gpus {gpus}'
        yield f"  --modules {_words(cluster.modules)})"
    else:
        yield "check=()"
    yield "command=("
    if stage.script not in SCHEMAS:
        yield "  env --unset=SLURM_NTASKS  # one process, which starts its own"
    yield f'  {shlex.quote(python)} "$repository/scripts/{stage.script}.py"'
    yield from (f"  {_quoted(argument)}" for argument in stage.arguments)
    yield ")"
    yield from (f"export {name}={shlex.quote(str(v))}" for name, v in cluster.env.items())
    yield from cluster.setup


def _words(words: Iterable[str]) -> str:
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """A word of bash, in double quotes where that reads better."""
    plain = "'" in word and not set(word) & set('$`"!' + "\\")
    return f'"{word}"' if plain else shlex.quote(word)
