"""Before exp_manager looks for a checkpoint to resume from: only whole ones are left to find."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from glmkd_nemo.checkpoint.sharded import (
    REPLACED,
    TEMPORARY,
    CheckpointDamaged,
    damage,
    newest_whole,
)

BROKEN = ".damaged"
_UNFINISHED = "-unfinished"  # NeMo's marker


def prepare(folder: Path) -> Path | None:
    """Cleans a directory of checkpoints so that the newest whole one is the one resumed from.

    Remains of a killed save are removed. A damaged checkpoint is renamed (``.damaged``) and named
    on stderr, with what is used in its place. exp_manager wants a single ``*-last``: older ones,
    which a kill can leave behind, are removed. Rank 0 only; call it before processes are joined.

    Args:
        folder: ``<log directory>/checkpoints``.

    Returns:
        The checkpoint to resume from, or None to start anew.

    Raises:
        CheckpointDamaged: there are checkpoints, and none is whole.
    """
    if not folder.is_dir():
        return None
    _remove_remains(folder)
    problems = {p: damage(p) for p in folder.iterdir() if p.is_dir() and p.suffix != BROKEN}
    newest = newest_whole(folder)
    for path, problem in problems.items():
        if problem:
            _set_aside(path, problem, newest)
        elif path.name.endswith("-last") and path != newest:
            shutil.rmtree(path)
    return newest


def _set_aside(path: Path, problem: str, newest: Path | None) -> None:
    if newest is None:
        raise CheckpointDamaged(
            f"checkpoint {path} {problem}, and no whole one is beside it: restore it from a copy, "
            "or remove it to start anew"
        )
    aside = path.rename(path.with_name(path.name + BROKEN))
    note = f"checkpoint {path} {problem}; kept as {aside.name}; going on from {newest}"
    print(note, file=sys.stderr, flush=True)


def _remove_remains(folder: Path) -> None:
    for path in list(folder.iterdir()):
        if path.suffix == TEMPORARY:
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == REPLACED:  # killed between two renames: the old one is whole
            target = path.with_suffix("")
            if target.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.rename(target)
        elif path.name.endswith(_UNFINISHED) and path.is_file():
            # saves appear by rename, so what is marked and damaged was being removed
            marked = path.with_name(path.name.removesuffix(_UNFINISHED))
            if marked.is_dir() and damage(marked):
                shutil.rmtree(marked)
            path.unlink()
