"""What stands before the original's program: variables, folders, and what starts the processes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_VARIABLE = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_PYTHON = re.compile(r"python[\d.]*")
_DEEPSPEED = ("deepspeed", "deepspeed.pt", "ds", "deepspeed.launcher.runner")
_TORCH = ("torchrun", "torch.distributed.launch", "torch.distributed.run")
_IDLE = ("nohup", "time", "exec", "env", "export", "&&", ";")  # they change nothing of a run


@dataclass(frozen=True)
class Launcher:
    """What starts the processes.

    Attributes:
        options: its own.
        torch: ``torchrun`` and its like; otherwise ``deepspeed``.
    """

    options: tuple[str, ...]
    torch: bool = False


def started_by(words: Sequence[str]) -> tuple[dict[str, str], Launcher | None, list[str]]:
    """What the words before a program say.

    Args:
        words: of the command up to the program.

    Returns:
        Variables that are set, the launcher if there is one, and notes.

    Raises:
        ValueError: a word that is none of these.
    """
    left, environment, notes = list(words), dict[str, str](), list[str]()
    while left:
        word = left.pop(0)
        name = PurePosixPath(word).name
        if _VARIABLE.fullmatch(word):
            key, _, value = word.rstrip(";").partition("=")
            environment[key] = value
        elif word == "cd" and left:
            folder = left.pop(0).rstrip(";")
            notes.append(f"cd {folder}: paths are relative to that folder of the original")
        elif word == "-m" or name in (*_DEEPSPEED, *_TORCH):
            found = left.pop(0) if word == "-m" and left else name
            return environment, _launcher(found, left), notes
        elif _PYTHON.fullmatch(name):
            while left and re.fullmatch("-[a-zA-Z]+", left[0]) and left[0] != "-m":
                left.pop(0)  # -u and its like
        elif word not in _IDLE:
            raise ValueError(_unknown(word))
    return environment, None, notes


def _launcher(name: str, options: Sequence[str]) -> Launcher:
    if name in _DEEPSPEED:
        return Launcher(tuple(options))
    if name not in _TORCH:
        raise ValueError(_unknown(name))
    # both --nproc-per-node and --nproc_per_node are known to torchrun
    words = [re.sub("^--[^=]+", lambda m: "--" + m[0][2:].replace("-", "_"), o) for o in options]
    return Launcher(tuple(words), torch=True)


def _unknown(word: str) -> str:
    return (
        f"{word!r} before the program is not understood: leave it out, and start the program by "
        "deepspeed, torchrun or python"
    )
