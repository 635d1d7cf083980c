"""One command line of the original, taken apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from glmkd_nemo.config.strict import nearest

# name of the original's program: what it is to this translator
PROGRAMS = {
    "pretrain.py": "pretrain",
    "pretrain_glm.py": "pretrain",
    "finetune.py": "finetune",
    "finetune_glm.py": "finetune",
    "auto_tune.py": "auto_tune",
    "change_mp.py": "change_mp",
}
_VARIABLE = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_LAUNCHERS = ("deepspeed", "deepspeed.pt", "torchrun")


@dataclass(frozen=True)
class Original:
    """A command line.

    Attributes:
        environment: variables set before it.
        launcher: options of the ``deepspeed`` launcher; ``None``: it was not used.
        program: ``pretrain``, ``finetune``, ``auto_tune`` or ``change_mp``.
        arguments: of the program.
    """

    environment: dict[str, str]
    launcher: list[str] | None
    program: str
    arguments: list[str]


def split(command: Sequence[str] | str) -> list[str]:
    """Words of a command as a shell reads them; lines may be continued with a backslash.

    Raises:
        ValueError: a quote that is not closed, or no words at all.
    """
    if isinstance(command, str):
        joined = re.sub(r"\\[ \t]*\r?\n", " ", command)
        words = shlex.split(joined, comments=True)
    else:
        words = list(command)
    if not words:
        raise ValueError("no command is given: write it after --, quoted, or in a file")
    return words


def take_apart(command: Sequence[str] | str) -> Original:
    """A command in its parts.

    Raises:
        ValueError: it starts none of the original's programs.
    """
    words = split(command)
    environment: dict[str, str] = {}
    while words and _VARIABLE.fullmatch(words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    at = next((i for i, word in enumerate(words) if _is_program(word)), None)
    if at is None:
        raise ValueError(_no_program(words))
    program = PROGRAMS[PurePosixPath(words[at]).name]
    launcher = words[1:at] if words[0] in _LAUNCHERS else None
    return Original(environment, launcher, program, words[at + 1 :])


def _is_program(word: str) -> bool:
    return PurePosixPath(word).name in PROGRAMS


def _no_program(words: list[str]) -> str:
    script = next((w for w in words if w.endswith(".py")), None)
    known = ", ".join(PROGRAMS)
    if script is None:
        return f"the command starts none of the original's programs ({known})"
    hint = nearest(PurePosixPath(script).name, PROGRAMS)
    return f"{script} is none of the original's programs that this knows ({known}){hint}"
