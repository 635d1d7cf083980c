"""Run one function on several gloo ranks of this machine, for tests of parallel code.

Ranks are forked from a server that has imported the heavy modules once: ten seconds less for each.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.1
# What `make test` runs in processes of their own; none of them starts a thread when imported.
PRELOAD = [
    "glmkd_nemo.engine.finetune",
    "glmkd_nemo.models.distill_modelpt",
    "glmkd_nemo.replay.run",
    "glmkd_nemo.tune.check",
]


class RankFailed(RuntimeError):
    """A rank died or the time was up; the message ends with what the ranks printed."""


def run_ranks(
    fn_path: str, world: int, args: dict[str, Any] | None = None, timeout: int = 120
) -> Any:
    """Call ``function(**args)`` on ``world`` processes joined by gloo and return rank 0's result.

    The ranks see torchrun's environment variables and an initialised default process group; one
    process runs one thread. The first rank that fails stops the others at once.

    Args:
        fn_path: ``"package.module:function"``, importable from the root of the repository.
        world: number of processes.
        args: keyword arguments, picklable.
        timeout: seconds for the whole run.

    Raises:
        RankFailed: with the failing rank's output.
    """
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        files = [Path(folder, f"rank{rank}.log") for rank in range(world)]
        result, request = Path(folder, "result.pkl"), Path(folder, "args.pkl")
        request.write_bytes(pickle.dumps(args or {}))
        port = _free_port()
        processes: list[ForkServerProcess] = []
        try:
            for rank, file in enumerate(files):
                environment = _environment(rank, world, port)
                given = (file, environment, fn_path, request, result, timeout)
                processes.append(context.Process(target=_rank, args=given))
                processes[-1].start()
            _wait(processes, files, fn_path, timeout)
        finally:
            for process in processes:
                _stop(process)
        return pickle.loads(result.read_bytes())


def run_script(
    name: str, *arguments: object, cwd: Path = ROOT, timeout: int = 250
) -> subprocess.CompletedProcess[str]:
    """``python scripts/NAME.py ARGUMENTS``, in a process forked from the warm server.

    Raises:
        RankFailed: no end after `timeout` seconds.
    """
    context = multiprocessing.get_context("forkserver")
    command = [str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    with tempfile.TemporaryDirectory(prefix="script-") as folder:
        output, errors = Path(folder, "stdout"), Path(folder, "stderr")
        process = context.Process(
            target=_script, args=(command, cwd, dict(os.environ), output, errors)
        )
        process.start()
        try:
            process.join(timeout)
            said = [file.read_text() if file.exists() else "" for file in (output, errors)]
            if process.exitcode is None:
                raise RankFailed(f"{command}: no end after {timeout} s\n{said[0]}{said[1]}")
            return subprocess.CompletedProcess(command, process.exitcode, *said)
        finally:
            _stop(process)


def _script(
    command: list[str], cwd: Path, environment: dict[str, str], output: Path, errors: Path
) -> None:
    _alone(environment, cwd, output, errors)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")


def _alone(environment: dict[str, str], cwd: Path, output: Path, errors: Path) -> None:
    """Leaves the server's session, environment, folder, stdout and stderr."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)


def _environment(rank: int, world: int, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),  # of children
    }


def _wait(processes: list[ForkServerProcess], files: list[Path], name: str, timeout: int) -> None:
    end = time.monotonic() + timeout
    while True:
        codes = [process.exitcode for process in processes]
        if any(codes):
            time.sleep(5 * POLL_SECONDS)  # the cause may be on a rank that is still writing
            raise RankFailed(f"{name}: a rank failed {codes}\n{_tails(files)}")
        if all(code == 0 for code in codes):
            return
        if time.monotonic() > end:
            raise RankFailed(f"{name}: no end after {timeout} s {codes}\n{_tails(files)}")
        time.sleep(POLL_SECONDS)


def _tails(files: list[Path]) -> str:
    return "\n".join(f"[{f.stem}] {f.read_text(errors='replace')[-3000:]}" for f in files)


def _stop(process: ForkServerProcess) -> None:
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also what a rank that has died left behind
    process.kill()  # it may not have come to lead a group
    process.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank(
    log: Path, environment: dict[str, str], fn_path: str, request: Path, result: Path, timeout: int
) -> None:
    _alone(environment, ROOT, log, log)
    import torch
    import torch.distributed as dist

    import glmkd_nemo  # noqa: F401  (patches for machines without CUDA)

    torch.set_num_threads(1)
    module, function = fn_path.split(":")
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    value = getattr(importlib.import_module(module), function)(**pickle.loads(request.read_bytes()))
    if dist.get_rank() == 0:
        result.write_bytes(pickle.dumps(value))
    dist.barrier()
    dist.destroy_process_group()
