"""Puts a converted checkpoint in its place: whole or not at all, and in place of nothing else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glmkd_nemo.checkpoint import archive
from glmkd_nemo.checkpoint.huggingface import CONFIG
from glmkd_nemo.checkpoint.original_shards import SHARD, TRACKERS

_WEIGHTS = (".safetensors", ".bin")


def check_place(source: Path, target: Path, folder: bool, overwrite: bool) -> None:
    """Refuses a target that cannot be written, or that would take something else with it.

    Args:
        source: what is converted.
        target: where to.
        folder: whether a folder or a file is written.
        overwrite: what is there may be replaced.

    Raises:
        ValueError: names the target and what to do instead.
    """
    here, there = source.resolve(), target.resolve()
    if here == there:
        raise ValueError(f"{target} is the source itself: choose another target.")
    if here in there.parents or there in here.parents:
        how = "lies in" if here in there.parents else "contains"
        raise ValueError(f"{target} {how} the source {source}: choose another target.")
    if target.is_symlink():
        raise ValueError(f"{target} is a link: give the place that it points to.")
    if not target.exists():
        return
    if not overwrite:
        raise ValueError(f"{target} exists: choose another target, or overwrite=true.")
    if target.is_dir() != folder:
        kind, other = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise ValueError(f"{target} is a {kind}, and a {other} is to be written: choose another.")
    if folder and (others := _no_part_of_a_checkpoint(target)):
        raise ValueError(
            f"{target} is no checkpoint, or has more in it ({others[0]}), which overwrite=true "
            "would remove: choose another target, or remove it yourself."
        )


def _no_part_of_a_checkpoint(folder: Path) -> list[str]:
    """Entries of a folder that a checkpoint of one of the formats does not have."""
    entries = sorted(folder.iterdir())
    names = {entry.name for entry in entries}
    if archive.CONFIG in names:
        known = {archive.CONFIG, archive.WEIGHTS, archive.TOKENIZER}
    elif CONFIG in names and any(name.endswith(_WEIGHTS) for name in names):
        known = {entry.name for entry in entries if entry.is_file()}
    else:
        inside = [e.name for e in entries if (e / SHARD.format(0)).is_file()]
        known = {*TRACKERS, *inside} if names & {*TRACKERS} and len(inside) == 1 else set()
    return sorted(names - known)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder of this process's own, on the target's disk; :func:`put` moves what is made there.

    Raises:
        OSError: the place cannot be written to, by name.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise OSError(
            f"cannot write to {target.parent} ({error.strerror or error}): choose another target."
        ) from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def put(made: Path, target: Path) -> None:
    """Moves a file or folder made in a stage to the target; what is there goes last.

    Raises:
        OSError: it cannot be moved; what was there is there again.
    """
    if not target.is_dir():
        made.replace(target)
        return
    aside = made.with_name("replaced")
    target.rename(aside)
    try:
        made.rename(target)
    except OSError:
        aside.rename(target)
        raise
