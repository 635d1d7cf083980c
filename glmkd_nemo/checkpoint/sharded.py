"""A sharded checkpoint is a directory that is either whole or refused by name.

Megatron-Core writes one file per rank and more. Here they are written to a temporary directory
beside the target, listed with their sizes in ``files.json``, and renamed: a process killed in
mid-save leaves a ``*.tmp`` that nobody takes for a checkpoint, and a truncated copy is noticed.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

LISTING = "files.json"
TEMPORARY, REPLACED = ".tmp", ".old"
_NEEDED = (".metadata", "metadata.json", "common.pt")


class CheckpointDamaged(ValueError):
    """A checkpoint that is not whole, by name."""


class CheckpointRefused(ValueError):
    """A checkpoint that would run code, by name."""


def plain(value: Any) -> Any:
    """Copies containers as plain ones: ``common.pt`` is read with ``weights_only=True``."""
    if isinstance(value, DictConfig | ListConfig):
        return OmegaConf.to_container(value, resolve=True)
    if type(value) is OrderedDict:
        return OrderedDict((key, plain(item)) for key, item in value.items())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, type) else value


def save_directory(
    state: dict[str, Any], path: Path, beside: Callable[[Path], None] | None = None
) -> None:
    """Saves a (partly) sharded state dict as directory ``path``; all ranks call it.

    Args:
        state: its tensors may be sharded.
        path: the directory.
        beside: writes further files into the directory that it is given; all ranks call it.

    Raises:
        OSError: the disk is full or not writable.
    """
    first = torch.distributed.get_rank() == 0
    temporary = path.with_name(path.name + TEMPORARY)
    if first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    torch.distributed.barrier()
    save_shards(plain(state), temporary)
    if beside is not None:
        beside(temporary)
    torch.distributed.barrier()
    if first:
        write_listing(temporary)
        _put_in_place(temporary, path)
    torch.distributed.barrier()


def save_shards(state: dict[str, Any], folder: Path) -> None:
    """``dist_checkpointing.save``, synchronous, without the helper process it would leave behind.

    Megatron-Core collects the writers' results in a queue served by a process of its own, spawned
    at the first save: seconds, a copy of the main module, and after SIGKILL an orphan. A save that
    is not asynchronous fills and empties the queue in one process.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if filesystem_async._results_queue is None:
        filesystem_async._results_queue = queue.Queue()
    dist_checkpointing.save(state, str(folder))


def write_listing(folder: Path) -> None:
    """Lists the files of a directory with their sizes; written last, and to the disk."""
    sizes = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != LISTING
    }
    with (folder / LISTING).open("w", encoding="utf-8") as output:
        json.dump(sizes, output, indent=1)
        output.flush()
        os.fsync(output.fileno())


def _put_in_place(temporary: Path, path: Path) -> None:
    replaced = path.with_name(path.name + REPLACED)
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        path.rename(replaced)
    temporary.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)


def damage(path: Path) -> str | None:
    """What is wrong with a sharded checkpoint directory, or None if it is whole."""
    if not path.is_dir():
        return "is not a directory"
    missing = [name for name in _NEEDED if not (path / name).is_file()]
    if missing:
        return f"lacks {', '.join(missing)}"
    listing = path / LISTING
    if not listing.is_file():
        return None  # written by another program: its own files are there
    try:
        sizes = json.loads(listing.read_text(encoding="utf-8")).items()
    except (ValueError, AttributeError):
        return f"is damaged: {LISTING} is no list of files with their sizes"
    for name, size in sizes:
        file = path / name
        if not file.is_file():
            return f"lacks {name}"
        if file.stat().st_size != size:
            return f"is truncated: {name} has {file.stat().st_size} bytes of {size}"
    return None


def check_whole(path: Path) -> None:
    """Refuses a damaged checkpoint by name.

    Raises:
        FileNotFoundError: there is none.
        CheckpointDamaged: files are missing or truncated; names the newest whole one beside it.
        CheckpointRefused: loading it would run code.
    """
    from glmkd_nemo.checkpoint.untrusted import check_pickles

    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    problem = damage(path)
    if problem:
        other = newest_whole(path.parent)
        hint = (
            f"; the newest whole one is {other}" if other else "; there is no whole one beside it"
        )
        raise CheckpointDamaged(f"checkpoint {path} {problem}{hint}")
    check_pickles(path)


def newest_whole(folder: Path) -> Path | None:
    """The most recently written whole checkpoint in a directory of checkpoints."""
    if not folder.is_dir():
        return None
    candidates = [p for p in folder.iterdir() if p.is_dir() and _finished(p) and not damage(p)]
    return max(candidates, key=lambda p: (p / ".metadata").stat().st_mtime_ns, default=None)


def _finished(path: Path) -> bool:
    marker = path.with_name(path.name + "-unfinished")  # NeMo's marker
    return path.suffix not in (TEMPORARY, REPLACED) and not marker.exists()
