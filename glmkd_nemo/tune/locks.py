"""Locks of files: who holds one is alive, or one of the processes that it was passed on to.

The kernel drops them when the last of these ends, however it ends; no file has to be removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.2


class Stopped(Exception):
    """The user stopped the sweep."""


def try_lock(path: Path) -> int | None:
    """An open, locked file; None when another process has it. Close it to let go."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


@contextlib.contextmanager
def locked(path: Path, stopping: Callable[[], bool]) -> Iterator[int]:
    """Waits for the lock of `path`; gives its file descriptor.

    Raises:
        Stopped: `stopping` came true while it waited.
    """
    while (file := try_lock(path)) is None:
        _wait(stopping)
    try:
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def one_of(slots: list[str], stopping: Callable[[], bool]) -> Iterator[tuple[str, list[int]]]:
    """Waits for a free entry of `slots`, e.g. ``["0", "1"]`` or ``["0,1"]`` (numbers of GPUs).

    All sweeps of this machine share the locks, so that two of them never meet on one GPU.

    Yields:
        The entry, and the file descriptors of its locks.

    Raises:
        Stopped: `stopping` came true while it waited.
    """
    while True:
        for slot in slots:
            files = _lock_all([_gpu_lock(gpu) for gpu in slot.split(",")])
            if files:
                try:
                    yield slot, files
                finally:
                    for file in files:
                        os.close(file)
                return
        _wait(stopping)


def _gpu_lock(gpu: str) -> Path:
    return Path(tempfile.gettempdir(), f"glmkd_nemo-gpu{gpu.strip()}-{os.getuid()}.lock")


def _lock_all(paths: list[Path]) -> list[int]:
    """All of them, or none."""
    files: list[int] = []
    for path in paths:
        file = try_lock(path)
        if file is None:
            for other in files:
                os.close(other)
            return []
        files.append(file)
    return files


def _wait(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise Stopped
    time.sleep(POLL_SECONDS)
