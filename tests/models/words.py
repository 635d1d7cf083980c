"""A tokenizer of six letters, and tables that sort it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

LETTERS = "abcdef"


class Words:
    """Its first two tokens are commands."""

    vocab_size, unk_id = len(LETTERS), 1
    commands: ClassVar[dict[str, Any]] = {
        text: SimpleNamespace(text=text, id=i) for i, text in enumerate("ab")
    }

    def token(self, token_id: int) -> str:
        """Text of one id."""
        return LETTERS[token_id]


def write(path: Path, order: list[int]) -> str:
    """A table as scripts/sort_vocab.py writes it."""
    lines = ["origin_no\tsort_id\ttoken\tnumber\tfrequency"]
    for place, token in enumerate(order):
        lines.append(f"{order.index(place)}\t{token}\t{LETTERS[token]}\t1\t0")
    path.write_text("\n".join(lines) + "\n")
    return str(path)
