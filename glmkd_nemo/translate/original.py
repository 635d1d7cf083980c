"""One command line of the original, taken apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.translate.launcher import Launcher, started_by

# name of the original's program: what it is to this translator
PROGRAMS = {
    "pretrain.py": "pretrain",
    "pretrain_glm.py": "pretrain",
    "finetune.py": "finetune",
    "finetune_glm.py": "finetune",
    "auto_tune.py": "auto_tune",
    "change_mp.py": "change_mp",
    "generate_samples.py": "generate",
    "vocab_sort.py": "sort_vocab",
}
_ALONE = ("auto_tune", "change_mp", "sort_vocab")
# quoted or escaped text is one unit, in which # begins no comment; nor does it within a word
_COMMENT = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*"|\\.)|(?<!\S)#[^\n]*""", re.DOTALL)
_REDIRECTION = re.compile(r"(\d|&)?>[>&|]?(.*)", re.DOTALL)
_ENDS = {"&&", "||", "|", "|&", ";", "&"}
_REDIRECTED = (
    "where the output of the command goes (> and its like): not in the translation; add it"
)


@dataclass(frozen=True)
class Original:
    """A command line.

    Attributes:
        environment: variables set before it.
        launcher: what starts the processes; ``None``: nothing, so there is one.
        program: a value of ``PROGRAMS``.
        arguments: of the program.
        notes: what the user should know.
    """

    environment: dict[str, str]
    launcher: Launcher | None
    program: str
    arguments: list[str]
    notes: tuple[str, ...] = ()


def split(command: Sequence[str] | str) -> list[str]:
    """Words of a command as a shell reads them; lines may be continued with a backslash.

    Raises:
        ValueError: a quote that is not closed, or no words at all.
    """
    if isinstance(command, str):
        bare = _COMMENT.sub(lambda found: found[1] or "", command)
        try:
            words = shlex.split(re.sub(r"\\[ \t]*\r?\n", " ", bare))
        except ValueError as error:
            raise ValueError(f"the command cannot be read as a shell reads it: {error}") from error
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
    at = next((i for i, word in enumerate(words) if _is_program(word)), None)
    if at is None:
        raise ValueError(_no_program(words))
    program = PROGRAMS[PurePosixPath(words[at]).name]
    environment, launcher, notes = started_by(words[:at])
    arguments, redirected = _arguments(words[at + 1 :])
    if launcher is not None and program in _ALONE:
        notes.append(f"the launcher before {words[at]}: no effect")
    notes += [_REDIRECTED] * redirected
    return Original(environment, launcher, program, arguments, tuple(notes))


def _arguments(words: list[str]) -> tuple[list[str], bool]:
    """The program's own, without a redirection of its output and a closing ``&`` or ``;``."""
    words, own, redirected = list(words), [], False
    if words and words[-1] in ("&", ";"):
        words.pop()
    while words:
        word = words.pop(0)
        found = _REDIRECTION.fullmatch(word)
        if word in _ENDS:
            raise ValueError(f"{word!r}: give one command at a time, without what follows it")
        if found is None:
            own.append(word)
            continue
        redirected = True
        if not found[2]:
            del words[:1]
    return own, redirected


def _is_program(word: str) -> bool:
    return PurePosixPath(word).name in PROGRAMS


def _no_program(words: list[str]) -> str:
    script = next((w for w in words if w.endswith(".py")), None)
    known = ", ".join(PROGRAMS)
    if script is None:
        return f"the command starts none of the original's programs ({known})"
    hint = nearest(PurePosixPath(script).name, PROGRAMS)
    return f"{script} is none of the original's programs that this knows ({known}){hint}"
