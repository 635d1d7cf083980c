"""Orders a vocabulary by how often a corpus uses its tokens, for GLMD's vocabulary compression.

The file has the columns of the original GLMKD's: line ``i`` (after the head) has the line of token
``i`` in ``origin_no``, and in the others the token that stands at place ``i``, its count and share.
Tokens that must be kept come first: command tokens and the words that cloze tasks answer with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glmkd_nemo.data.corpus import tokenise_once
from glmkd_nemo.data.indexed import IndexedCorpus
from glmkd_nemo.data.readers import raw_suffix
from glmkd_nemo.data.tokenizer import GLMTokenizer

COLUMNS = ("origin_no", "sort_id", "token", "number", "frequency")

# Answers of the cloze patterns of SuperGLUE, MNLI, AG's News, Yahoo and Yelp (arXiv 2001.07676).
ANSWERS = (
    *("no", "yes", "maybe", "true", "false", "2", "b", "right", "wrong", "correct", "incorrect"),
    *("world", "sports", "business", "tech", "society", "science", "health", "education"),
    *("computer", "entertainment", "relationship", "politics"),
    *("terrible", "bad", "okay", "good", "great"),
)

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sorted:
    """What was written: ``tokens`` counted, vocabulary ids ``used`` and ``kept`` first, and the
    words asked for that are no single token."""

    path: Path
    tokens: int
    used: int
    kept: int
    unknown: tuple[str, ...]


def sort_vocab(
    corpora: Sequence[str | Path],
    output: str | Path,
    tokenizer: GLMTokenizer,
    *,
    keep: Sequence[str] = ANSWERS,
    overwrite: bool = False,
    progress: bool = True,
) -> Sorted:
    """Counts the tokens of corpora and writes the sorted vocabulary.

    Args:
        corpora: indexed corpora (path without suffix) or raw text files.
        output: the file.
        tokenizer: of the model.
        keep: words that come first, if they are one token, besides command tokens.
        overwrite: replace an existing file.
        progress: show a bar.

    Raises:
        FileNotFoundError, ValueError: a corpus is missing, empty or of another vocabulary, or the
            output exists or cannot be written.
    """
    target = Path(output).expanduser()
    if target.exists() and not overwrite:
        raise ValueError(f"{target} exists: choose another file or pass --overwrite.")
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for corpus in corpora:
        counts += count_tokens(corpus, tokenizer, progress)
    first, unknown = ids_of(keep, tokenizer)
    first |= {token.id for token in tokenizer.commands.values()}
    order = sorted_ids(counts, first)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(table(order, counts, tokenizer), encoding="utf-8", newline="\n")
    except OSError as error:
        raise ValueError(f"cannot write {target}: {error}") from error
    return Sorted(target, int(counts.sum()), int((counts > 0).sum()), len(first), unknown)


def count_tokens(corpus: str | Path, tokenizer: GLMTokenizer, progress: bool = False) -> Counts:
    """``[vocab_size]``: how often each token occurs in an indexed corpus or raw text file.

    Raises:
        FileNotFoundError, ValueError: as for :class:`IndexedCorpus` and ``tokenise_once``.
    """
    from tqdm import tqdm

    with tempfile.TemporaryDirectory() as scratch:
        prefix = Path(corpus)
        if raw_suffix(str(corpus)):
            prefix = tokenise_once(corpus, tokenizer, scratch, progress=progress)
        opened = IndexedCorpus(prefix, tokenizer)
        counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
        total = int(opened.lengths.sum())
        with tqdm(
            total=total, unit="token", unit_scale=True, desc="count", disable=not progress
        ) as bar:
            for chunk in opened.chunks():
                found = np.bincount(chunk, minlength=len(counts))
                if len(found) > len(counts):
                    raise ValueError(
                        f"corpus {corpus} has token {len(found) - 1}, but the vocabulary has "
                        f"{len(counts)} tokens: give the tokenizer that it was made with."
                    )
                counts += found
                bar.update(len(chunk))
    return counts


def ids_of(words: Iterable[str], tokenizer: GLMTokenizer) -> tuple[set[int], tuple[str, ...]]:
    """Ids of words that are one token, with or without a space before, and the other words."""
    found: set[int] = set()
    unknown = []
    for word in words:
        forms = [tokenizer.encode(form) for form in (word, f" {word}")]
        single = {ids[0] for ids in forms if len(ids) == 1} - {tokenizer.unk_id}
        found |= single
        if not single:
            unknown.append(word)
    return found, tuple(unknown)


def sorted_ids(counts: Counts, first: set[int]) -> list[int]:
    """All ids, those of ``first`` before the others, each group by falling count and rising id.

    (The original keeps ties of counts in the order in which the corpus first has the tokens.)
    """
    return sorted(range(len(counts)), key=lambda i: (i not in first, -int(counts[i]), i))


def table(order: Sequence[int], counts: Counts, tokenizer: GLMTokenizer) -> str:
    """The file's text."""
    line_of = {token: line for line, token in enumerate(order)}
    total = max(int(counts.sum()), 1)
    lines = ["\t".join(COLUMNS)]
    for line, token in enumerate(order):
        number = int(counts[token])
        share = f"{number / total:.3e}"
        row = (str(line_of[line]), str(token), _text(token, tokenizer), str(number), share)
        lines.append("\t".join(row))
    return "\n".join(lines) + "\n"


def read_order(path: str | Path, tokenizer: GLMTokenizer) -> list[int]:
    """The ids of a table in their order, checked against a tokenizer.

    Raises:
        ValueError: no table, one that is damaged, or one of another vocabulary.
    """
    file = Path(path).expanduser()
    try:
        with file.open(encoding="utf-8", newline="\n") as stream:
            head, *rows = [line.rstrip("\n").split("\t") for line in stream]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"cannot read the sorted vocabulary {file}: {error}") from error
    where = f"{file} is no table of scripts/sort_vocab.py"
    if tuple(head) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"{where}: its columns are not {', '.join(COLUMNS)}.")
    if not all(row[0].isdigit() and row[1].isdigit() for row in rows):
        raise ValueError(f"{where}: its ids are not numbers.")
    order = [int(row[1]) for row in rows]
    places = {token: place for place, token in enumerate(order)}
    if [places.get(token) for token in range(len(rows))] != [int(row[0]) for row in rows]:
        raise ValueError(f"{where}: origin_no and sort_id do not belong together.")
    if len(order) != tokenizer.vocab_size:
        raise ValueError(
            f"{file} sorts {len(order)} tokens, but the tokenizer has {tokenizer.vocab_size}: make "
            "it anew with scripts/sort_vocab.py and the options of model.tokenizer."
        )
    for token, row in zip(order, rows, strict=True):
        if row[2] != _text(token, tokenizer):
            raise ValueError(
                f"{file} was made with another vocabulary: token {token} is {row[2]!r} there and "
                f"{_text(token, tokenizer)!r} in model.tokenizer."
            )
    return order


def _text(token: int, tokenizer: GLMTokenizer) -> str:
    """A token in one field of one line."""
    text = tokenizer.token(token)
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
