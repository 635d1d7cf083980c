"""What a job script does, by bash and with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from glmkd_nemo.cluster.body import BODY

TOP = """\
folder={folder}
result={folder}/model.nemo
max_requeues=2
container=()
check=(check)
command=(train)
"""
SRUN = """\
#!/bin/bash
case "$*" in
  *check) [[ $UNFIT != all && "$*" != *nodelist=$UNFIT\\ * ]] ;;
  *hostname*) echo "$ADDRESS" ;;
  *train)
    echo "$MASTER_ADDR:$MASTER_PORT" >>"$FOLDER/trained"
    [ -z "$SAVES" ] || touch "$FOLDER/checkpoints/step=$SAVES"
    if [ -n "$TERM_JOB" ]; then
      kill -TERM $PPID
      until [ -e "$FOLDER/scancel" ]; do sleep 0.02; done
    fi
    [ "$CODE" != 0 ] || touch "$FOLDER/model.nemo"
    exit "$CODE" ;;
esac
"""
SQUEUE = '#!/bin/bash\n[[ "$*" == *%T* ]] && echo "$STATE" || echo "$EXCLUDED"\n'
SCONTROL = """\
#!/bin/bash
if [ "$1" = show ]; then printf 'n1\\nn2\\n'; else echo "$*" >>"$FOLDER/scontrol"; fi
"""


SCANCEL = '#!/bin/bash\necho "$*" >>"$FOLDER/scancel"\n'


class Job:
    """Runs the part of a job script that all stages share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        binaries = folder / "bin"
        binaries.mkdir()
        (folder / "checkpoints").mkdir()
        commands = {"srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL, "scancel": SCANCEL}
        for name, text in commands.items():
            (binaries / name).write_text(text)
            (binaries / name).chmod(0o755)
        self.script = folder / "job.sh"
        self.script.write_text(TOP.format(folder=folder) + BODY)

    def run(self, code: int = 0, **changes: str) -> int:
        """Exit code of the job whose training ends with ``code``."""
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "FOLDER": str(self.folder),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "CODE": str(code),
            "STATE": "RUNNING",
            "EXCLUDED": "(null)",
            "UNFIT": "none",
            "ADDRESS": "127.0.1.1 10.0.0.1 ::1\nn1",
            **changes,
        }
        done = subprocess.run(
            ["bash", str(self.script)], env=environment, capture_output=True, text=True, check=False
        )
        self.output = done.stdout
        assert not done.stderr
        return done.returncode

    def read(self, name: str) -> list[str]:
        """Lines of a file."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job in a folder of its own."""
    return Job(tmp_path)


def test_a_complete_stage_is_not_run_again(job: Job) -> None:
    assert job.run() == 0
    assert job.run() == 0
    assert job.read("trained") == ["10.0.0.1:20007"]
    assert "complete before" in job.output
    assert not job.read("scontrol")


def test_a_stop_with_a_checkpoint_is_requeued_any_number_of_times(job: Job) -> None:
    for step in range(5):
        assert job.run(130, SAVES=str(step)) == 1
    assert "stopped with a checkpoint" in job.output
    assert job.read("scontrol") == ["requeue 7"] * 5


def test_stops_without_progress_come_to_an_end(job: Job) -> None:
    (job.folder / "checkpoints" / "of_an_earlier_start").touch()
    for step in ("", "1", "", "", ""):
        assert job.run(130, SAVES=step) == 1
    assert "stopped without a new checkpoint" in job.output
    assert "given up after 2 requeues" in job.output
    assert job.read("scontrol") == ["requeue 7"] * 4


def test_a_signal_goes_to_the_steps_and_is_no_cut_off_before_training(job: Job) -> None:
    for _ in range(3):
        assert job.run(143, TERM_JOB="1") == 1
        (job.folder / "scancel").rename(job.folder / "sent")
    assert job.read("sent") == ["--signal=TERM 7"]
    assert "stopped without a new checkpoint" in job.output
    assert "given up" in job.output
    assert not job.read("logs/cut_off-7")
    assert job.run(143) == 1  # a rank killed: srun ends the other ones by TERM
    assert "cut off (code 143)" in job.output


@pytest.mark.parametrize(
    ("told", "used"), [("127.0.1.1\nn1", "n1"), ("10.0.0.2", "10.0.0.2"), ("", None)]
)
def test_the_first_node_is_known_by_an_address_or_its_name(
    job: Job, told: str, used: str | None
) -> None:
    assert job.run(ADDRESS=told) == (0 if used else 1)
    assert job.read("trained") == ([f"{used}:20007"] if used else [])
    assert used or "n1 does not tell its address" in job.output


def test_a_killed_step_is_requeued_so_often(job: Job) -> None:
    for _ in range(4):
        assert job.run(137) == 1
    assert job.read("scontrol") == ["requeue 7"] * 2
    assert "given up after 2 requeues" in job.output


def test_mistakes_and_cancelled_jobs_are_not_requeued(job: Job) -> None:
    assert job.run(2) == 2
    assert job.run(130, STATE="COMPLETING") == 1
    assert not job.read("scontrol")


def test_a_step_that_leaves_nothing_is_a_failure(job: Job) -> None:
    (job.folder / "bin" / "srun").write_text("#!/bin/bash\necho n1\n")
    assert job.run() == 1
    assert "ended without" in job.output


def test_all_nodes_unfit_is_a_mistake(job: Job) -> None:
    assert job.run(UNFIT="all") == 2
    assert "no fault of a node" in job.output
    assert not job.read("scontrol")


def test_an_unfit_node_is_named_and_excluded(job: Job) -> None:
    assert job.run(UNFIT="n2", EXCLUDED="n9") == 1
    assert "unfit nodes: n2" in job.output
    assert job.read("scontrol") == ["requeue 7", "update JobId=7 ExcNodeList=n9,n2"]
    assert not job.read("trained")
