"""Corpus of the demo: text -> pieces -> WordPiece vocabulary -> Megatron indexed files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glmkd_nemo.demo.text import SPLITS, choose_blanks, deal_out, pieces_of, write_jsonl

_SHOWN_BAD_ROWS = 5


def corpus_files(path: str) -> list[Path]:
    """Text files of `path`: the file itself, or all readable ones in a folder, sorted.

    Raises:
        FileNotFoundError: nothing at `path`, or a folder without text files.
        ValueError: an empty file, or one of a kind that cannot be read.
    """
    from glmkd_nemo.data.readers import RAW_SUFFIXES, check_raw_file, raw_suffix

    place = Path(path).expanduser()
    if not place.is_dir():
        return [check_raw_file(place)]
    found = sorted(f for f in place.rglob("*") if f.is_file() and raw_suffix(f))
    if not found:
        kinds = ", ".join(RAW_SUFFIXES)
        raise FileNotFoundError(f"no text in the folder {place}: name files {kinds} (or with .gz)")
    return [check_raw_file(file) for file in found]


def documents_of(files: list[Path]) -> Iterator[str]:
    """Documents of text files: the rows of jsonl, a plain text file as a whole.

    Malformed rows are left out; the first few and their number go to stderr.
    """
    from glmkd_nemo.data.readers import JSON_SUFFIXES, BadRow, decode_row, raw_suffix, rows

    bad = 0
    for file in files:
        texts: list[str] = []
        for row, _ in rows(file):
            text = decode_row(row, "text")
            if not isinstance(text, BadRow):
                texts.append(text)
                continue
            bad += 1
            if bad <= _SHOWN_BAD_ROWS:
                print(f"  malformed row: {text}", file=sys.stderr)
        yield from texts if raw_suffix(file) in JSON_SUFFIXES else ["\n\n".join(texts)]
    if bad:
        print(f"  {bad} malformed rows left out", file=sys.stderr)


def prepare_corpus(
    folder: Path, corpus: str | None, vocab_size: int, data: dict[str, Any], seq_length: int
) -> dict[str, Any]:
    """Writes tokenizer and indexed train, valid and test text under `folder`.

    Args:
        folder: of the stage.
        corpus: the user's text; None: CPython's own documentation.
        vocab_size: of the WordPiece vocabulary.
        data: the section ``model.data`` without paths; here only to count blank tokens.
        seq_length: positions of a sample.

    Returns:
        name, tokens per split, target_share (share of positions that carry loss), blanks (sentences
        of the test text).

    Raises:
        ValueError, FileNotFoundError: text missing, unreadable or too short.
    """
    from glmkd_nemo.data.preprocess import preprocess
    from glmkd_nemo.data.tokenizer import build_tokenizer, train_wordpiece

    split = deal_out(pieces_of(_documents(corpus)))
    train_wordpiece(split["train"], vocab_size, folder / "tokenizer")
    tokenizer = build_tokenizer({"type": "bert", "path": str(folder / "tokenizer")})
    tokens = {}
    for name in SPLITS:
        source = folder / f"{name}.jsonl"
        write_jsonl(split[name], source)
        summary = preprocess([source], folder / name, tokenizer, overwrite=True, progress=False)
        tokens[name] = summary.tokens
    return {
        "name": corpus or "CPython's language reference and standard library documentation",
        "tokens": tokens,
        "target_share": _target_share(folder, data, tokenizer, seq_length),
        "blanks": choose_blanks(split["train"], split["test"]),
    }


def _documents(corpus: str | None) -> Iterator[str]:
    if corpus is not None:
        return documents_of(corpus_files(corpus))
    from glmkd_nemo.data.python_docs import documents

    return iter(documents())


def _target_share(folder: Path, data: dict[str, Any], tokenizer: Any, seq_length: int) -> float:
    from glmkd_nemo.data.corpus import build_dataset

    count = 256
    sample = build_dataset(
        {**data, **data_paths(folder)}, tokenizer, seq_length, "train", count, seed=0
    )
    return float(sum(sample[i]["loss_mask"].mean() for i in range(count)) / count)


def data_paths(folder: Path, held_out: str = "valid") -> dict[str, Any]:
    """The paths of ``model.data``: training text, and `held_out` as the validation text."""
    return {
        "prefixes": [str(folder / "train")],
        "valid_prefixes": [str(folder / held_out)],
        "test_prefixes": [str(folder / "test")],
    }
