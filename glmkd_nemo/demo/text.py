"""The demo's text: pieces of documents, dealt out to training, validation and test."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

PIECE_CHARACTERS = 2000
SPLITS = ("train", "valid", "test")
# Of every 20 pieces one is for validation and one for test.
_EVERY, _VALID, _TEST = 20, 9, 19
_LEAST_PIECES = 2 * _EVERY


def pieces_of(documents: Iterable[str]) -> list[str]:
    """Documents cut at paragraphs into pieces of about `PIECE_CHARACTERS`, repeated ones once.

    Repeated text (inherited docstrings, licence headers) on both sides of the split would make the
    held-out loss a test of memory.
    """
    seen: set[str] = set()
    pieces: list[str] = []
    for document in documents:
        piece = ""
        for paragraph in re.split(r"\n\s*\n", document):
            text = " ".join(paragraph.split())
            if not text or text in seen:
                continue
            seen.add(text)
            piece = f"{piece}\n{text}" if piece else text
            if len(piece) >= PIECE_CHARACTERS:
                pieces.append(piece)
                piece = ""
        if piece:
            pieces.append(piece)
    return pieces


def deal_out(pieces: list[str]) -> dict[str, list[str]]:
    """`pieces` as {"train", "valid", "test"}: 18, 1 and 1 of every 20.

    Raises:
        ValueError: too few pieces to have a held-out text.
    """
    if len(pieces) < _LEAST_PIECES:
        raise ValueError(
            f"the corpus gives {len(pieces)} pieces of text of about {PIECE_CHARACTERS} "
            f"characters; the demo needs {_LEAST_PIECES} to train and to hold some out. Name a "
            "larger text with CORPUS=path, or leave CORPUS out to use Python's documentation"
        )
    split: dict[str, list[str]] = {name: [] for name in SPLITS}
    for index, piece in enumerate(pieces):
        place = {_VALID: "valid", _TEST: "test"}.get(index % _EVERY, "train")
        split[place].append(piece)
    return split


def write_jsonl(texts: list[str], path: Path) -> None:
    """One ``{"text": ...}`` per line."""
    lines = (json.dumps({"text": text}) for text in texts)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def choose_blanks(train: list[str], test: list[str], count: int = 2) -> list[tuple[str, str]]:
    """Sentences of the test text with one word blanked: (sentence with [MASK], the word).

    Short plain sentences whose blanked word (five letters or more, not the first) is frequent in
    the training text: small models cannot know rare ones. The same text gives the same sentences.
    """
    frequency = Counter(word for text in train for word in re.findall(r"[a-z]{5,}", text))
    found: list[tuple[int, str, str]] = []
    for text in test:
        for sentence in re.findall(r"(?<![\w.])[A-Z][a-z]+(?: [a-z]+,?){5,12}\.", text):
            words = [w for w in re.findall(r"\b[a-z]{5,}\b", sentence) if frequency[w] >= 20]
            if words:
                word = max(words, key=lambda w: frequency[w])
                found.append((frequency[word], sentence, word))
    chosen: list[tuple[str, str]] = []
    for _, sentence, word in sorted(found, key=lambda item: (-item[0], item[1])):
        if word not in (w for _, w in chosen):
            chosen.append((re.sub(rf"\b{word}\b", "[MASK]", sentence, count=1), word))
        if len(chosen) == count:
            break
    return chosen
