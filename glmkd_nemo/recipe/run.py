"""Runs the stages of a recipe one after the other; those that are done are skipped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from glmkd_nemo.recipe import process
from glmkd_nemo.recipe.plan import Recipe, Stage
from glmkd_nemo.recipe.record import (
    Note,
    add_numbers,
    check_same,
    log_of,
    read_notes,
    write_notes,
)
from glmkd_nemo.tune.locks import locked, try_lock

STOPPED = 130  # exit code of a script that Ctrl-C ended with a checkpoint


class StageError(RuntimeError):
    """A stage ended without its result; the message names it, its log and its last words."""


def run_recipe(
    recipe: Recipe, say: Callable[[str], None], command: process.Command | None = None
) -> dict[str, Note]:
    """Runs what is not done; what is known of all stages.

    Args:
        recipe: see :func:`~glmkd_nemo.recipe.plan.load_recipe`.
        say: prints a line for the user.
        command: what runs a script; default: :func:`~glmkd_nemo.recipe.process.forked` at scale
            tiny, else :func:`~glmkd_nemo.recipe.process.separately`.

    Raises:
        ValueError, OSError: files that are missing, or a stage that was begun with other settings.
        StageError: a stage failed.
        KeyboardInterrupt: Ctrl-C; the running stage has written its checkpoint.
    """
    check_inputs(recipe)
    recipe.out.mkdir(parents=True, exist_ok=True)
    path = recipe.out / "lock"
    free = try_lock(path)
    if free is None:
        say(
            f"  another run_recipe.py, or a stage that it left, is at work in {recipe.out}: waiting"
        )
    else:
        os.close(free)
    with locked(path, lambda: False) as lock:
        notes = read_notes(recipe)
        if command is None:
            tiny = recipe.scale == "tiny"
            command = process.forked if tiny else partial(process.separately, lock=lock)
        for number, stage in enumerate(recipe.stages, 1):
            _run(recipe, stage, notes, command, partial(_say, say, number, recipe))
    return notes


def check_inputs(recipe: Recipe) -> None:
    """Sees that the files are there that stages which are not done start from.

    Raises:
        ValueError: one message with all that are missing.
    """
    open_ones = [stage for stage in recipe.stages if not stage.result.is_file()]
    used = " ".join(argument for stage in open_ones for argument in stage.arguments)
    missing = [
        f"{key}={path} is not there: make it, or name another with {key}=..."
        for key, path in recipe.inputs
        if path in used and not _is_there(Path(path))
    ]
    if missing:
        raise ValueError("\n".join(missing))


def _is_there(path: Path) -> bool:
    return path.exists() or any(path.parent.glob(f"{path.name}.*"))  # an indexed corpus


def _say(say: Callable[[str], None], number: int, recipe: Recipe, text: str) -> None:
    say(f"  {number:>2} of {len(recipe.stages)}  {text}")


def _run(
    recipe: Recipe,
    stage: Stage,
    notes: dict[str, Note],
    command: process.Command,
    say: Callable[[str], None],
) -> None:
    known = notes.get(stage.name)
    if known is not None and known.state != "failed":
        check_same(stage, known, recipe.out)
    if stage.result.is_file():
        notes.setdefault(stage.name, Note(list(stage.arguments))).state = "done"
        say(f"{stage.name:<24} done before")
        return
    note = notes[stage.name] = known or Note()
    note.arguments, note.state = list(stage.arguments), "started"
    write_notes(recipe, notes)
    log, began = log_of(recipe, stage), time.monotonic()
    process.note_start(stage.script, stage.arguments, log)
    code = STOPPED
    try:
        code = command(stage.script, stage.arguments, log)
    finally:
        note.seconds = round(note.seconds + time.monotonic() - began, 1)
        if stage.result.is_file() and code == 0:
            note.state = "done"
            add_numbers(stage, log, note)
        elif code != STOPPED:
            note.state = "failed"
        write_notes(recipe, notes)
    if code == STOPPED:
        raise KeyboardInterrupt
    if note.state == "failed":
        words = process.last_words(log)
        raise StageError(f"stage {stage.name}: {words} (exit code {code}); see {log}")
    say(f"{stage.name:<24} {described(note)}")


def described(note: Note) -> str:
    """Time, loss and score in one line."""
    parts = [f"{note.seconds:>8.1f} s"]
    parts += [] if note.loss is None else [f"loss {note.loss:.4f}"]
    parts += [] if note.score is None else [f"{note.metric} {note.score:.4f}"]
    return "  ".join(parts)
