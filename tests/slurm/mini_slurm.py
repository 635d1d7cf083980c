"""A Slurm of two nodes on this machine: munge, slurmctld and a slurmd for each, on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONFIG = """\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
CryptoType=crypto/munge
# A requeued job waits for so many seconds, 120 by default
AuthInfo=socket={place}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmdSpoolDir={place}/slurmd-%n
StateSaveLocation={place}/state
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
SelectType=select/linear
SchedulerType=sched/backfill
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
InactiveLimit=0
KillWait=5
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)}: `make test-slurm` installs slurm-wlm and munge, as root"
    return None if os.geteuid() == 0 else "slurmctld and slurmd run as root here, and this is not"


class MiniSlurm:
    """Starts on entry, ends what it started on exit.

    Args:
        place: a new folder for sockets, state and logs; its path must be short (a socket's).
        nodes: how many.
    """

    def __init__(self, place: Path, nodes: int) -> None:
        self.place, self.names = place, [f"node{n}" for n in range(1, nodes + 1)]
        self.environment = {**os.environ, "SLURM_CONF": str(place / "slurm.conf")}

    def __enter__(self) -> MiniSlurm:
        ports = _free_ports(len(self.names) + 1)
        host = socket.gethostname()
        node = "NodeName={} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs=2 RealMemory=1000"
        nodes = "\n".join(
            node.format(n, host, p) for n, p in zip(self.names, ports[1:], strict=True)
        )
        text = CONFIG.format(host=host, port=ports[0], place=self.place, nodes=nodes)
        (self.place / "slurm.conf").write_text(text)
        (self.place / "state").mkdir()
        key = self.place / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munge = [f"--{name}={self.place}/munge.{end}" for name, end in files.items()]
        self.call("munged", "--force", f"--key-file={key}", *munge)
        self.call("slurmctld", "-c")
        for name in self.names:
            (self.place / f"slurmd-{name}").mkdir()
            self.call("slurmd", "-N", name)
        wait_for(lambda: self.call("sinfo", "-h", "-N", "-o", "%T").split() == self._idle(), 60)
        return self

    def __exit__(self, *exc: object) -> None:
        self.call("scancel", "--user=root")
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: not self.call("squeue", "-h").strip(), 30)
        daemons = [*(f"slurmd-{name}" for name in self.names), "slurmctld", "munge"]
        for daemon in daemons:
            path = self.place / f"{daemon}.pid"
            with contextlib.suppress(OSError, ValueError):
                number = int(path.read_text())
                os.kill(number, signal.SIGTERM)
                wait_for(lambda number=number: not Path(f"/proc/{number}").exists(), 30)

    def _idle(self) -> list[str]:
        return ["idle"] * len(self.names)

    def call(self, *command: str) -> str:
        """Output of a command of this Slurm.

        Raises:
            RuntimeError: it failed.
        """
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def state(self, job: str) -> str:
        """Of a job, e.g. PENDING; Slurm forgets a finished one after some minutes."""
        found = self.call("scontrol", "show", "job", job)
        return found.split("JobState=")[1].split()[0]

    def process(self, job: str, node: int, script: str) -> int | None:
        """The process that runs ``script`` on the n-th node of a job (from 0)."""
        marks = {f"SLURM_JOB_ID={job}", f"SLURM_NODEID={node}", "SLURM_LOCALID=0"}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not entry.name.isdigit() or not marks <= _words(entry / "environ"):
                    continue
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                step = (entry.parent / parent / "cmdline").read_bytes().startswith(b"slurmstepd")
                if step and any(word.endswith(script) for word in _words(entry / "cmdline")):
                    return int(entry.name)
        return None


def wait_for(condition: Callable[[], bool], seconds: float, every: float = 0.2) -> None:
    """Waits until ``condition()`` holds.

    Raises:
        TimeoutError: it did not within so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no end after {seconds} s")
        time.sleep(every)


def _words(path: Path) -> set[str]:
    return {word.decode(errors="replace") for word in path.read_bytes().split(b"\0")}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
