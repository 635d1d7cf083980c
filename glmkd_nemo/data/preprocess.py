"""Raw text -> Megatron indexed corpus (`.bin`, `.idx`) with a small sidecar (`.json`)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import Any

import numpy as np

from glmkd_nemo.data.config import TokenizerConfig, as_config
from glmkd_nemo.data.corpus_writer import CorpusWriter, Result, Summary, writable_prefix
from glmkd_nemo.data.readers import BadRow, RawRow, check_raw_file, decode_row, rows
from glmkd_nemo.data.tokenizer import GLMTokenizer, build_tokenizer

_CHUNK_BYTES = 1 << 18  # rows are handed to workers in chunks of about this size


def preprocess(
    inputs: Sequence[str | Path],
    prefix: str | Path,
    tokenizer: GLMTokenizer | Any,
    *,
    text_key: str = "text",
    document_by: str = "auto",
    workers: int = 1,
    max_bad_rows: int = 1000,
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Tokenises text files into one indexed corpus.

    The files appear under their names only when complete. Documents keep their order, whatever
    `workers` is. Malformed rows are listed in `<prefix>.bad_rows.txt` and counted.

    Args:
        inputs: jsonl or text files, each plain or .gz.
        prefix: output path without suffix.
        tokenizer: a `GLMTokenizer`, or the config of one.
        text_key: key of the text in jsonl rows.
        document_by: see `readers.rows`.
        workers: tokenising processes (1: this process).
        max_bad_rows: more malformed rows than this stop the run.
        overwrite: replace an existing corpus.
        progress: show a bar with the time left.

    Raises:
        FileNotFoundError, ValueError: an input is missing, empty or of unknown format, the output
            cannot be written or exists, too many malformed rows, or no document at all.
    """
    if not inputs:
        raise ValueError("no input files given")
    files = [check_raw_file(path) for path in inputs]
    if not isinstance(tokenizer, GLMTokenizer):
        tokenizer = build_tokenizer(as_config(TokenizerConfig, tokenizer))
    target = writable_prefix(prefix, overwrite)
    with CorpusWriter(target, tokenizer, max_bad_rows) as writer:
        with _bar(sum(file.stat().st_size for file in files), progress) as advance:
            chunks = _chunks(files, document_by, advance)
            for results in _tokenised(chunks, tokenizer, text_key, workers):
                for result in results:
                    writer.add(result)
        return writer.finish([str(file) for file in files])


@contextlib.contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc="tokenise", disable=not shown) as bar:
        yield lambda count: bar.update(count) and None


def _chunks(
    files: Iterable[Path], document_by: str, advance: Callable[[int], None]
) -> Iterator[list[RawRow]]:
    """Rows of all files in order, in chunks; `advance` gets the bytes read since the last call."""
    chunk: list[RawRow] = []
    size = 0
    for file in files:
        done = 0
        for row, read in rows(file, document_by):
            advance(read - done)
            done = read
            chunk.append(row)
            size += len(row.data)
            if size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        advance(file.stat().st_size - done)
    if chunk:
        yield chunk


def _tokenised(
    chunks: Iterable[list[RawRow]], tokenizer: GLMTokenizer, text_key: str, workers: int
) -> Iterator[list[Result]]:
    if workers <= 1:
        for chunk in chunks:
            yield _encode(chunk, tokenizer, text_key)
        return
    cfg = json.dumps(dataclasses.asdict(tokenizer.cfg))
    # Spawned, not forked: torch and the Rust tokenizers hold threads.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        # A bounded window of chunks: Pool.imap would read the whole corpus into its queue.
        pending: deque[AsyncResult[list[Result]]] = deque()
        for chunk in chunks:
            pending.append(pool.apply_async(_encode_in_worker, (chunk, cfg, text_key)))
            if len(pending) >= 4 * workers:
                yield pending.popleft().get()
        while pending:
            yield pending.popleft().get()


def _encode(chunk: list[RawRow], tokenizer: GLMTokenizer, text_key: str) -> list[Result]:
    results: list[Result] = []
    for row in chunk:
        text = decode_row(row, text_key)
        if isinstance(text, BadRow):
            results.append(text)
            continue
        ids = np.array(tokenizer.encode(text), dtype=np.int64)
        results.append(ids if len(ids) else BadRow(row.file, row.line, "no token in the text"))
    return results


@functools.cache
def _worker_tokenizer(cfg: str) -> GLMTokenizer:
    return build_tokenizer(json.loads(cfg))


def _encode_in_worker(chunk: list[RawRow], cfg: str, text_key: str) -> list[Result]:
    return _encode(chunk, _worker_tokenizer(cfg), text_key)
