"""The part of a job script that is the same for every stage."""

from __future__ import annotations

# Nothing below depends on the stage: scripts/slurm/*.sbatch, written by hand, end with this too.
BODY = r"""
# ==== The same for every stage: fit nodes, the stage, what its end means ====
logs=$folder/logs
mkdir -p "$logs"
cut_off=$logs/cut_off-$SLURM_JOB_ID  # a line for every time that this job was cut off
idle=$logs/idle-$SLURM_JOB_ID  # a line for every stop since the last one with a new checkpoint
started=$logs/started-$SLURM_JOB_ID  # as old as this start
touch "$started"
signalled=
trap on_term TERM  # --signal=B: only this script gets it

on_term() {  # TERM is for the processes that train: this script lives on, to requeue the job
  [ -z "$signalled" ] || return
  signalled=1
  scancel --signal=TERM "$SLURM_JOB_ID"  # the steps, not this script
}

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

again() {  # FILE REASON [NODE,NODE]: requeued, and a line in FILE, which says how often before
  say "$2"
  if [ "$(cat "$1" 2>/dev/null | wc -l)" -ge "$max_requeues" ]; then
    say "given up after $max_requeues requeues (max_requeues)"
    exit 1
  fi
  say "$2" >>"$1"
  requeue "$3"
}

stopped() {  # requeued any number of times, if there is progress between them
  if (cd "$folder" && find . -path "*/checkpoints/*" -newer "$started") | grep -q .; then
    rm -f "$idle"
    say "stopped with a checkpoint"
    requeue
  fi
  again "$idle" "stopped without a new checkpoint"
}

ended() {  # PROCESS: its exit code, also where TERM interrupts the waiting
  while wait "$1"; kill -0 "$1" 2>/dev/null; do :; done
  wait "$1"
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
    ended "${checks[$node]}" || unfit+=("$node")
  done
  [ -z "$signalled" ] || stopped
  if [ ${#unfit[@]} -gt 1 ] && [ ${#unfit[@]} -eq ${#nodes[@]} ]; then
    say "all nodes are unfit: no fault of a node, but of the paths, Python or limits (see above)"
    exit 2
  fi
  [ ${#unfit[@]} -eq 0 ] ||
    again "$cut_off" "unfit nodes: ${unfit[*]}" "$(IFS=,; echo "${unfit[*]}")"
fi

# An address that other nodes know; Debian's /etc/hosts may have 127.0.1.1 only: then the name
MASTER_ADDR=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
  sh -c "hostname --ip-address; hostname" | tr " " "\n" | grep -m1 -vE "^(127\.|::1$|fe80:|$)")
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))  # Linux gives those from 32768 on to anybody
if [ -z "$MASTER_ADDR" ]; then
  say "${nodes[0]} does not tell its address or name (hostname)"
  exit 1
fi
export MASTER_ADDR MASTER_PORT
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

say "starts on ${nodes[*]}"
srun "${container[@]}" --kill-on-bad-exit=1 --open-mode=append \
  --output="${logs//%/%%}/%x-%j-%n-%t.log" "${command[@]}" &
ended $!
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
  130) stopped ;;
  *)  # 143: TERM before training began
    [ "$signalled $code" != "1 143" ] || stopped
    again "$cut_off" "cut off (code $code)"
    ;;
esac
"""
