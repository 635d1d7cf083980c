"""The job script of a stage: what is the stage's on top, what is every stage's below."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from glmkd_nemo.cluster.resolve import SCHEMAS
from glmkd_nemo.cluster.settings import ROOT, SlurmSettings
from glmkd_nemo.recipe.plan import Stage

# Nothing below depends on the stage: scripts/slurm/*.sbatch, written by hand, end with this too.
BODY = r"""
# ==== The same for every stage: fit nodes, the stage, what its end means ====
logs=$folder/logs
mkdir -p "$logs"
cut_off=$logs/cut_off-$SLURM_JOB_ID  # a line for every time that this job was cut off
trap : TERM  # is for the processes that train: this script lives on, to requeue the job

say() { echo "$(date '+%F %T') job $SLURM_JOB_ID restart ${SLURM_RESTART_COUNT:-0}: $*"; }
of_job() { squeue --noheader --job "$SLURM_JOB_ID" --format "$1"; }

requeue() {  # [NODE,NODE]: this job once more, without these nodes
  local state unfit
  state=$(of_job %T)
  if [ "$state" != RUNNING ]; then  # cancelled by somebody, or requeued by Slurm itself
    say "is ${state:-gone}: not requeued"
    exit 1
  fi
  unfit=$(of_job %x | grep -v null | cat - <(echo "$1") | grep . | paste -sd, -)
  say "requeued${1:+ without $unfit}"
  scontrol requeue "$SLURM_JOB_ID" || exit 1
  # Slurm lets only a pending job exclude nodes: this one is pending from here on
  [ -z "$1" ] || for _ in 1 2 3 4 5; do
    scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$unfit" && break
    sleep 1
  done
  exit 1
}

again() {  # REASON [NODE,NODE]: requeued, if that was not done too often
  say "$1"
  if [ "$(cat "$cut_off" 2>/dev/null | wc -l)" -ge "$max_requeues" ]; then
    say "given up after $max_requeues requeues (max_requeues)"
    exit 1
  fi
  say "$1" >>"$cut_off"
  requeue "$2"
}

if [ -e "$result" ]; then
  say "complete before: $result"
  exit 0
fi

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
if [ ${#check[@]} -gt 0 ]; then
  declare -A checks
  unfit=()
  for node in "${nodes[@]}"; do
    srun "${container[@]}" --nodes=1 --ntasks=1 --nodelist="$node" --time=10 "${check[@]}" &
    checks[$node]=$!
  done
  for node in "${nodes[@]}"; do
    wait "${checks[$node]}" || unfit+=("$node")
  done
  [ ${#unfit[@]} -eq 0 ] || again "unfit nodes: ${unfit[*]}" "$(IFS=,; echo "${unfit[*]}")"
fi

MASTER_ADDR=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address |
  awk '{print $1}')
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

say "starts on ${nodes[*]}"
srun "${container[@]}" --kill-on-bad-exit=1 --open-mode=append \
  --output="$logs/%x-%j-%n-%t.log" "${command[@]}"
code=$?
if [ -e "$result" ]; then  # a rank that was cut off now had nothing left to do
  say "complete: $result"
  exit 0
fi
case $code in
  0)
    say "ended without $result"
    exit 1
    ;;
  2)
    say "a mistake in the command, see $logs: not requeued"
    exit 2
    ;;
  130)
    say "stopped with a checkpoint"
    requeue
    ;;
  *) again "cut off (code $code)" ;;
esac
"""


def job_script(recipe: str, stage: Stage, cluster: SlurmSettings, folder: Path) -> str:
    """The text of a stage's sbatch script.

    Args:
        recipe: its name, for the job's.
        stage: what is run.
        cluster: where.
        folder: the directory that the job starts in.
    """
    header = "\n".join(f"#SBATCH {option}" for option in _options(recipe, stage, cluster, folder))
    settings = "\n".join(_settings(stage, cluster))
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


def _options(recipe: str, stage: Stage, cluster: SlurmSettings, folder: Path) -> Iterator[str]:
    yield f"--job-name={job_name(recipe, stage)}"
    yield f"--nodes={stage.nodes}"
    yield f"--ntasks-per-node={tasks_per_node(stage)}"
    gres = cluster.gres.format(devices=stage.devices) if cluster.gres else None
    given = {
        "gres": gres,
        "cpus-per-task": cluster.cpus_per_task,
        "mem": cluster.mem,
        "time": cluster.times.get(stage.name, cluster.time),
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
    yield f"--signal=TERM@{cluster.signal_seconds}"
    yield "--requeue"
    yield "--open-mode=append"
    yield f"--chdir={folder}"
    yield f"--output={stage.folder}/logs/%x-%j.log"


def _settings(stage: Stage, cluster: SlurmSettings) -> Iterator[str]:
    repository = cluster.repository or str(ROOT)
    python = cluster.python or ("python" if cluster.container.image else sys.executable)
    yield f"repository={shlex.quote(repository)}"
    yield f"folder={shlex.quote(str(stage.folder))}"
    yield f"result={shlex.quote(str(stage.result))}  # when it is there, the stage is complete"
    yield f"max_requeues={cluster.max_requeues}"
    yield f"container=({_words(_container(cluster))})"
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


def _container(cluster: SlurmSettings) -> Iterator[str]:
    if cluster.container.image:
        yield f"--container-image={cluster.container.image}"
        if cluster.container.mounts:
            yield f"--container-mounts={','.join(cluster.container.mounts)}"
        yield from cluster.container.options


def _words(words: Iterable[str]) -> str:
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """A word of bash, in double quotes where that reads better."""
    plain = "'" in word and not set(word) & set('$`"!' + "\\")
    return f'"{word}"' if plain else shlex.quote(word)
