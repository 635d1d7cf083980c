"""A real Slurm of this machine: a step killed on one node, requeue, resume, an unfit node.

Run by ``make test-slurm`` (SLURM_TEST=1), which installs Slurm where it may.
"""

from __future__ import annotations

import os
import pydoc_data.topics
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.mini_slurm import MiniSlurm, missing, wait_for

ROOT = Path(__file__).resolve().parents[2]
REASON = missing() if os.environ.get("SLURM_TEST") else "run by `make test-slurm`"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.timeout(3600),
]
SECONDS = 1500  # for a run; NeMo's import alone takes minutes on a busy machine
STEPS, CHECKPOINT_EVERY, KILL_AT = 120, 40, 55
RECIPE = f"""\
title: a pre-training of two nodes, and one of one node that goes on from its weights
stages:
  pretrain:
    overrides: &tiny
      model.num_layers: 2
      model.hidden_size: 16
      model.num_attention_heads: 2
      model.encoder_seq_length: 48
      model.max_position_embeddings: 48
      model.micro_batch_size: 2
      model.global_batch_size: 4
      model.tokenizer.path: vocab
      model.data.prefixes: [text.txt]
      model.data.num_workers: 1
      model.data.split: "800,100,100"
      trainer.num_nodes: 2
      trainer.max_steps: {STEPS}
      trainer.val_check_interval: {CHECKPOINT_EVERY}
      trainer.limit_val_batches: 1
      trainer.log_every_n_steps: 1
  second:
    overrides: {{<<: *tiny, trainer.num_nodes: 1, trainer.max_steps: 2}}
    student: pretrain
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[MiniSlurm]:
    """Three nodes."""
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as place,
        MiniSlurm(Path(place), 3) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe, a text and a vocabulary."""
    from glmkd_nemo.data.train_vocab import train_wordpiece

    folder = tmp_path_factory.mktemp("a recipe")  # sbatch reads quotes
    texts = list(pydoc_data.topics.topics.values())[:30]
    (folder / "text.txt").write_text("\n\n".join(texts))
    train_wordpiece(texts, 400, folder / "vocab")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


def launch(slurm: MiniSlurm, place: Path, out: str, *arguments: str) -> list[str]:
    """Job ids of the stages."""
    own = ["cluster.gres=null", "cluster.modules=[json]", "cluster.free_gb=0.1"]
    script = str(ROOT / "scripts" / "launch.py")
    command = [sys.executable, script, "recipe=tiny.yaml", f"out={out}", *own, *arguments]
    done = subprocess.run(
        command, cwd=place, env=slurm.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"submitted as job (\d+)", done.stdout)


def finish(slurm: MiniSlurm, job: str, logs: Path) -> str:
    """Waits for a job; its own log."""
    wait_for(lambda: slurm.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), SECONDS, 1)
    text = "\n".join(path.read_text() for path in sorted(logs.glob(f"*-{job}*.log")))
    assert slurm.state(job) == "COMPLETED", text
    (log,) = logs.glob(f"*[!0-9]-{job}.log")  # not a rank's
    return log.read_text()


def shown(logs: Path, job: str) -> list[tuple[int, str]]:
    """(step, loss) as rank 0 printed them, of all attempts."""
    text = "".join(path.read_text() for path in logs.glob(f"*-{job}-0-0.log"))
    return [(int(n), loss) for n, loss in re.findall(r"^step (\d+)/\d+ loss (\S+)", text, re.M)]


def tensorboard(folder: Path, tag: str = "train/loss") -> list[list[tuple[int, float]]]:
    """(step, value) of every attempt, the first one first (a resumed run starts a new file)."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    def values(path: Path) -> list[tuple[int, float]]:
        events = EventFileLoader(str(path)).Load()
        every = ((event.step, value) for event in events for value in event.summary.value)
        return [(n, value.tensor.float_val[0]) for n, value in every if value.tag == tag]

    # named events.out.tfevents.SECONDS.HOST...
    files = sorted(folder.rglob("events.out.tfevents.*"), key=lambda path: path.name)
    return [values(path) for path in files]


def test_a_killed_step_is_requeued_and_the_losses_are_those_of_an_undisturbed_run(
    slurm: MiniSlurm, place: Path
) -> None:
    whole = place / "whole" / "pretrain"
    first, second = launch(slurm, place, "whole")
    finish(slurm, first, whole / "logs")
    finish(slurm, second, place / "whole" / "second" / "logs")  # afterok

    cut = place / "cut" / "pretrain"
    (job,) = launch(slurm, place, "cut", "stages=[pretrain]")
    wait_for(lambda: bool(s := shown(cut / "logs", job)) and s[-1][0] >= KILL_AT, SECONDS)
    victim = slurm.process(job, 1, "pretrain.py")
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    log = finish(slurm, job, cut / "logs")
    assert "restart 0: cut off (code 1" in log  # 137, or 143 of the other rank
    assert "restart 1: complete" in log

    (undisturbed,) = tensorboard(whole)
    before, after = tensorboard(cut)
    assert len(undisturbed) == STEPS
    assert len(after) == STEPS - CHECKPOINT_EVERY
    assert after == undisturbed[CHECKPOINT_EVERY:]  # to the last bit
    assert before == undisturbed[: len(before)]
    steps = [step for step, _ in shown(cut / "logs", job)]
    assert steps.count(CHECKPOINT_EVERY + 1) == 2  # it went on from the checkpoint
    assert steps.count(CHECKPOINT_EVERY) == 1
    assert set(shown(cut / "logs", job)) == set(shown(whole / "logs", first))


def test_a_signal_writes_a_checkpoint_and_the_job_goes_on_without_an_unfit_node(
    slurm: MiniSlurm, place: Path
) -> None:
    python = place / "python"  # of node 1: broken
    python.write_text(
        f'#!/bin/sh\n[ $SLURMD_NODENAME = node1 ] || exec {sys.executable} "$@"\nexit 1\n'
    )
    python.chmod(0o755)
    (job,) = launch(slurm, place, "signal", "stages=[pretrain]", f"cluster.python={python}")
    folder = place / "signal" / "pretrain"
    wait_for(lambda: bool(s := shown(folder / "logs", job)) and s[-1][0] >= 5, SECONDS)
    slurm.call("scancel", "--batch", "--signal=TERM", job)  # as --signal=B:TERM@300 does
    log = finish(slurm, job, folder / "logs")
    assert "restart 0: unfit nodes: node1" in log
    assert "restart 1: starts on node2 node3" in log
    assert "restart 1: stopped with a checkpoint" in log
    assert "restart 2: complete" in log
    steps = [step for step, _ in shown(folder / "logs", job)]
    assert steps == list(range(1, STEPS + 1))  # none twice: the checkpoint is of the last step
