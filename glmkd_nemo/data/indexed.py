"""Reads an indexed corpus by document; refuses files that are missing, empty, cut or foreign."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glmkd_nemo.data.corpus_writer import with_suffix
from glmkd_nemo.data.tokenizer import GLMTokenizer

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")  # magic, version, type code, sequences, document bounds


class IndexedCorpus:
    """Documents of a `.bin`/`.idx` pair written by `preprocess` or by any Megatron tool.

    Args:
        prefix: path without suffix.
        tokenizer: must be the one the corpus was made with, where a sidecar tells.

    Attributes:
        lengths: tokens of each document, [documents] int64.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: empty, truncated, not an index, or made with another vocabulary.
    """

    def __init__(self, prefix: str | Path, tokenizer: GLMTokenizer) -> None:
        from megatron.core.datasets.indexed_dataset import IndexedDataset

        self.prefix = Path(prefix).expanduser()
        _check_files(self.prefix)
        _check_sidecar(self.prefix, tokenizer)
        self._data = IndexedDataset(str(self.prefix), mmap=True)
        ends = np.concatenate(([0], np.cumsum(self._data.sequence_lengths, dtype=np.int64)))
        bounds = np.asarray(self._data.document_indices, dtype=np.int64)
        self._check_size(int(ends[-1]))
        self._bounds = bounds
        self.lengths: npt.NDArray[np.int64] = np.diff(ends[bounds])

    def _check_size(self, tokens: int) -> None:
        if tokens == 0:
            raise ValueError(
                f"corpus {self.prefix} holds no tokens; run scripts/preprocess_data.py"
            )
        file = with_suffix(self.prefix, ".bin")
        wanted = tokens * np.dtype(self._data.index.dtype).itemsize
        if file.stat().st_size != wanted:
            raise ValueError(
                f"corpus {file} is truncated or does not belong to its .idx: {file.stat().st_size} "
                f"bytes, {wanted} expected; copy it again or run scripts/preprocess_data.py"
            )

    def read(self, document: int, start: int, end: int) -> npt.NDArray[np.int64]:
        """Tokens start..end of a document, [end - start]."""
        pieces = []
        for sequence in range(int(self._bounds[document]), int(self._bounds[document + 1])):
            size = int(self._data.sequence_lengths[sequence])
            if start < size and end > 0:
                first = max(start, 0)
                pieces.append(self._data.get(sequence, first, min(end, size) - first))
            start, end = start - size, end - size
        return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, dtype=np.int64)

    def chunks(self, size: int = 1 << 24) -> Iterator[npt.NDArray[np.integer[Any]]]:
        """All tokens in order, at most `size` at a time, as they are stored."""
        file = with_suffix(self.prefix, ".bin")
        tokens = np.memmap(file, dtype=self._data.index.dtype, mode="r")
        for start in range(0, len(tokens), size):
            yield tokens[start : start + size]


def _check_files(prefix: Path) -> None:
    for suffix in (".idx", ".bin"):
        file = with_suffix(prefix, suffix)
        if not file.is_file():
            raise FileNotFoundError(
                f"corpus file {file} does not exist; give the path without .bin/.idx, or make it "
                "with scripts/preprocess_data.py"
            )
        if file.stat().st_size == 0:
            raise ValueError(f"corpus file {file} is empty; run scripts/preprocess_data.py again")
    index = with_suffix(prefix, ".idx")
    with index.open("rb") as stream:
        head = stream.read(_HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise ValueError(f"{index} is not a Megatron index (.idx)")
    _, _, _, sequences, bounds = _HEADER.unpack(head)
    wanted = _HEADER.size + sequences * (4 + 8) + bounds * 8
    if index.stat().st_size < wanted:
        raise ValueError(
            f"corpus index {index} is truncated: {index.stat().st_size} bytes, {wanted} expected; "
            "copy it again or run scripts/preprocess_data.py"
        )


def _check_sidecar(prefix: Path, tokenizer: GLMTokenizer) -> None:
    file = with_suffix(prefix, ".json")
    if not file.is_file():
        return  # made by another Megatron tool: nothing is known of its vocabulary
    try:
        sidecar: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        theirs = sidecar["tokenizer_fingerprint"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"corpus sidecar {file} is broken ({error}); make the corpus again"
        ) from error
    if theirs != tokenizer.text_fingerprint():
        made_with = sidecar.get("tokenizer")
        raise ValueError(
            f"corpus {prefix} was made with another vocabulary ({made_with}, fingerprint {theirs}) "
            f"than model.tokenizer (fingerprint {tokenizer.text_fingerprint()}); set "
            "model.tokenizer to it, or make the corpus again with scripts/preprocess_data.py"
        )
