"""Commands as text for a shell."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

from glmkd_nemo.translate.command import Command

WIDTH = 100
_INDENT = "    "


def as_text(command: Command) -> str:
    """One command, wrapped and quoted; notes are not in it."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
    words = [*variables, "python", f"scripts/{command.script}.py"]
    lines, line = [], " ".join(words)
    for word in (quoted(override) for override in command.overrides):
        if len(line) + len(word) + 3 > WIDTH or "\n" in line or "\n" in word:
            lines.append(line)
            line = _INDENT + word
        else:
            line += f" {word}"
    return " \\\n".join([*lines, line])


def quoted(word: str) -> str:
    """`word` for a shell, in double quotes where it has single ones and nothing else of note."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)


def notes_of(commands: Sequence[Command]) -> list[str]:
    """All notes, each once."""
    return list(dict.fromkeys(note for command in commands for note in command.notes))


def page(commands: Sequence[Command]) -> str:
    """All commands, and the notes as comments: a shell script."""
    parts = [as_text(command) for command in commands]
    notes = notes_of(commands)
    if notes:
        wrapped = [
            textwrap.fill(
                note, WIDTH, initial_indent="# - ", subsequent_indent="#   ", break_long_words=False
            )
            for note in notes
        ]
        parts.append("\n".join(["# Without effect or equivalent here, or to be known:", *wrapped]))
    return "\n\n".join(parts)
