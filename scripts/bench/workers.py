"""Processes that build one thing each and run it when told, so that many take turns.

A run of its own for everything that is measured: its peak memory is its own, one slow minute of the
machine hits all alike, and nothing of one stays in the allocator of another.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

from scripts.bench.parts import Parts
from scripts.bench.recipes import Recipe
from scripts.bench.sizes import REFERENCE, Size

LAYOUTS = {  # tensor parallel, pipeline parallel, ranks, sequence parallel
    "tp1": (1, 1, 1, False),
    "tp2": (2, 1, 2, False),
    "tp2sp": (2, 1, 2, True),
    "pp2": (1, 2, 2, False),
    "dp2": (1, 1, 2, False),
}
PLAIN = ("plain student", "plain teacher")
OWN = ("own student", "own teacher")


@dataclass(frozen=True)
class Job:
    """What a worker builds.

    Attributes:
        name: one of :data:`PLAIN`, :data:`OWN`, or that of ``recipe``.
        recipe: of the last kind.
        threads: of each rank.
        layout: one of :data:`LAYOUTS`.
        micro_batches: of a step; the global batch is the same.
        environment: variables that it is started with.
    """

    name: str
    recipe: Recipe | None = None
    size: Size = REFERENCE
    threads: int = 1
    layout: str = "tp1"
    micro_batches: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


class Worker:
    """The processes of a job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self._pipes, self._processes = [], []
        world = 1 if job.name in PLAIN else LAYOUTS[job.layout][2]
        before = dict(os.environ)
        os.environ.update({"OMP_NUM_THREADS": str(job.threads), **job.environment})
        for rank in range(world):
            here, there = context.Pipe()
            args = (there, job, rank, world, f"{self._folder.name}/store")
            self._processes.append(context.Process(target=_serve, args=args, daemon=True))
            self._processes[-1].start()
            there.close()
            self._pipes.append(here)
        os.environ.clear()
        os.environ.update(before)

    def ask(self, command: str, *args: Any) -> list[Any]:
        """The answers of all ranks to one of :class:`_Commands`.

        Raises:
            SystemExit: a rank has died; what it printed says why.
        """
        for pipe in self._pipes:
            pipe.send((command, args))
        try:
            return [pipe.recv() for pipe in self._pipes]
        except EOFError:
            raise SystemExit(f"{self.job.name} ({self.job.layout}) failed") from None

    def stop(self) -> None:
        """Ends its processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(2)
            process.kill()
        self._folder.cleanup()


def _serve(pipe: Any, job: Job, rank: int, world: int, store: str) -> None:
    import torch

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    if job.name not in PLAIN:
        _join(job, rank, world, store)
    commands = _Commands(job)
    try:
        while True:
            command, args = pipe.recv()
            pipe.send(getattr(commands, command)(*args))
    except EOFError:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _join(job: Job, rank: int, world: int, store: str) -> None:
    import torch

    import glmkd_nemo  # noqa: F401  (first: it lets Megatron-Core run without CUDA)

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    file = torch.distributed.FileStore(store, world)
    torch.distributed.init_process_group(
        "nccl" if cuda else "gloo", store=file, rank=rank, world_size=world
    )
    from megatron.core import parallel_state, tensor_parallel

    import scripts.bench.engine  # noqa: F401  (what it imports counts as idle)

    tp, pp, _, _ = LAYOUTS[job.layout]
    parallel_state.initialize_model_parallel(tp, pp)
    tensor_parallel.model_parallel_cuda_manual_seed(1)


class _Commands:
    """What a worker can be asked for."""

    def __init__(self, job: Job) -> None:
        self.job, self.parts, self.watches = job, Parts(), False
        self.idle = resident("VmRSS")
        self.run = build(job, self.parts)

    def use(self, recipe: Recipe) -> None:
        """Builds another recipe in place of what there was."""
        self.run = None
        self.run = build(replace(self.job, name=recipe.name, recipe=recipe), self.parts)

    def step(self) -> dict[str, float]:
        """Seconds, seconds of the processor (all threads) and minor page faults of a step."""
        _wait()
        before, start, cpu = getrusage(RUSAGE_SELF), time.perf_counter(), time.process_time()
        self.run.step()
        _wait()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        faults = getrusage(RUSAGE_SELF).ru_minflt - before.ru_minflt
        return {"seconds": seconds, "cpu": cpu, "faults": faults}

    def memory(self) -> dict[str, int]:
        """Bytes: resident before anything was built, the most since then, the most on the GPU."""
        import torch

        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return {"idle": self.idle, "peak": resident("VmHWM"), "gpu": gpu}

    def split(self, steps: int) -> dict[str, float]:
        """Seconds by part of a step, the mean of ``steps``."""
        self._watch()
        self.parts.clear()
        for _ in range(steps):
            self.run.step()
        return {name: seconds / steps for name, seconds in self.parts.stop().items()}

    def trace(self, file: str) -> None:
        """Writes one step as torch's profiler sees it, for Perfetto; one file for each rank."""
        from torch.distributed import get_rank, get_world_size
        from torch.profiler import profile

        self._watch()
        self.parts.traced = True
        with profile() as seen:
            self.run.step()
        self.parts.traced = False
        path = Path(file)
        if get_world_size() > 1:
            path = path.with_stem(f"{path.stem}_rank{get_rank()}")
        seen.export_chrome_trace(str(path))

    def syncs(self, steps: int) -> list[tuple[str, str, str, float]]:
        """Waits for the device, see :mod:`scripts.bench.syncs`: part, kind, place, times a step."""
        from scripts.bench.host_syncs import counted

        self._watch()
        return counted(self.run, steps)

    def grow(self, steps: int) -> dict[str, float]:
        """Resident bytes and living tensors after ``steps`` more steps."""
        import gc

        import torch

        for _ in range(steps):
            self.run.step()
        gc.collect()
        tensors = sum(isinstance(x, torch.Tensor) for x in gc.get_objects())
        gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        return {"resident": resident("VmRSS"), "tensors": tensors, "gpu": gpu}

    def _watch(self) -> None:
        if not self.watches and self.job.name not in PLAIN:
            from scripts.bench.engine import watch_process

            watch_process(self.parts)
        self.watches = True
        watch = getattr(self.run, "watch", None)
        if watch is not None:
            watch()
            self.run.watch = None


def build(job: Job, parts: Parts) -> Any:
    """Something with ``step()`` that tells ``parts`` what it does."""
    if job.name in PLAIN:
        from scripts.bench import plain

        kind = plain.PlainStudent if job.name == PLAIN[0] else plain.PlainTeacher
        return kind(job.size, parts)
    from scripts.bench import engine

    sequence_parallel = LAYOUTS[job.layout][3]
    if job.name == OWN[1]:
        return engine.EngineTeacher(job.size, sequence_parallel, parts)
    return engine.EngineStep(job.size, job.recipe, sequence_parallel, job.micro_batches, parts)


def resident(name: str) -> int:
    """A line of /proc/self/status in bytes (getrusage's peak outlives exec: the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
