"""``scripts/translate_args.py``: reads a command, prints its translation, runs it if asked to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from glmkd_nemo.translate.checkpoints import SCRIPT
from glmkd_nemo.translate.command import Command

ROOT = Path(__file__).resolve().parents[2]
USER_ERROR = 2


def main(arguments: list[str]) -> int:
    """Translates; exit code 0, 2 (a user's error), or that of the command that failed.

    Args:
        arguments: ``[--run] -- WORDS``, or a quoted command, or a file with one, or ``-``.
    """
    from glmkd_nemo.translate import translate
    from glmkd_nemo.translate.show import page

    try:
        run, command = _command(arguments)
        found = translate(command)
        print(page(found), flush=True)
        return _run(found) if run else 0
    except (ValueError, OSError) as error:
        if os.environ.get("GLMKD_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


def _command(arguments: list[str]) -> tuple[bool, list[str] | str]:
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    words = arguments[len(own) + 1 :]
    unknown = [word for word in own if word.startswith("--") and word != "--run"]
    if unknown:
        raise ValueError(f"{unknown[0]}: only --run stands before --, the command after it")
    named = [word for word in own if word != "--run"]
    if (words and named) or len(named) > 1:
        raise ValueError("give one command: after --, or quoted, or a file with it, or -")
    if words or not named:
        return "--run" in own, words or sys.stdin.read()
    if named[0] == "-":
        return "--run" in own, sys.stdin.read()
    return "--run" in own, _text(named[0])


def _text(given: str) -> str:
    """The text of a file, or a quoted command itself."""
    try:
        is_file = Path(given).is_file()
    except (OSError, ValueError):  # too long for a file's name
        is_file = False
    if is_file:
        return Path(given).read_text(encoding="utf-8")
    if not set(given) & set(" \t\n"):
        raise ValueError(f"there is no file {given}; a command is quoted, or follows --")
    return given


def _run(commands: list[Command]) -> int:
    """Runs one after the other and stops at the first that fails; what is converted stays."""
    for command in commands:
        target = next((o[7:] for o in command.overrides if o.startswith("target=")), None)
        if command.script == SCRIPT and target and Path(target.strip("'")).exists():
            print(f"{target} is there: not converted again", file=sys.stderr)
            continue
        script = str(ROOT / "scripts" / f"{command.script}.py")
        environment = {**os.environ, **command.environment}
        code = subprocess.run(
            [sys.executable, script, *command.overrides], env=environment
        ).returncode
        if code:
            return code
    return 0
