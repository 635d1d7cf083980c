"""Writes an indexed corpus: all files appear, complete, at the end or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glmkd_nemo.data.readers import BadRow
from glmkd_nemo.data.tokenizer import GLMTokenizer

SIDECAR_FORMAT = 1
_SHOWN_BAD_ROWS = 10

Result = npt.NDArray[np.int64] | BadRow


@dataclass
class Summary:
    """What was written."""

    prefix: str
    documents: int
    tokens: int
    bad_rows: int


def writable_prefix(prefix: str | Path, overwrite: bool = False) -> Path:
    """The output prefix, after making its folder and trying to write there.

    Raises:
        ValueError: not writable, or a corpus of this name exists and `overwrite` is false.
    """
    target = Path(prefix).expanduser()
    if not overwrite and any(with_suffix(target, s).exists() for s in (".bin", ".idx", ".json")):
        raise ValueError(f"corpus {target} exists; choose another prefix or pass overwrite")
    probe = with_suffix(target, f".probe-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write the corpus to {target}: {error}") from error
    return target


def with_suffix(prefix: Path, suffix: str) -> Path:
    """`prefix` with `suffix` appended (a dot inside the prefix is not a suffix of its own)."""
    return prefix.with_name(prefix.name + suffix)


class CorpusWriter:
    """Writes documents under temporary names; `finish` puts them in place.

    Args:
        prefix: of `writable_prefix`.
        tokenizer: its vocabulary decides the integer type and is named in the sidecar.
        max_bad_rows: more malformed rows than this are refused.
    """

    def __init__(self, prefix: Path, tokenizer: GLMTokenizer, max_bad_rows: int) -> None:
        # mcore is imported here: readers of this module's other functions need not wait for it.
        from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

        self._prefix = prefix
        self._tokenizer = tokenizer
        self._max_bad_rows = max_bad_rows
        self._temporary = {
            s: with_suffix(prefix, f".part-{os.getpid()}{s}") for s in (".bin", ".idx")
        }
        dtype = DType.optimal_dtype(tokenizer.vocab_size)
        self._builder = IndexedDatasetBuilder(str(self._temporary[".bin"]), dtype=dtype)
        self._itemsize = np.dtype(dtype).itemsize
        self.documents = self.tokens = 0
        self.bad_rows: list[BadRow] = []

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(self, *unused: object) -> None:
        self._builder.data_file.close()
        for file in self._temporary.values():
            file.unlink(missing_ok=True)

    def add(self, result: Result) -> None:
        """Appends a document [n], or counts and names a malformed row.

        Raises:
            ValueError: more than `max_bad_rows` malformed rows.
        """
        if not isinstance(result, BadRow):
            self._builder.add_document(result, [len(result)])
            self.documents += 1
            self.tokens += len(result)
            return
        self.bad_rows.append(result)
        if len(self.bad_rows) <= _SHOWN_BAD_ROWS:
            print(f"malformed row: {result}", file=sys.stderr)
        if len(self.bad_rows) > self._max_bad_rows:
            shown = "\n  ".join(str(row) for row in self.bad_rows[:_SHOWN_BAD_ROWS])
            raise ValueError(
                f"more than {self._max_bad_rows} malformed rows (max_bad_rows); the first:\n"
                f"  {shown}"
            )

    def finish(self, sources: list[str]) -> Summary:
        """Puts the files in place, the sidecar last.

        Raises:
            ValueError: no document was added.
        """
        if not self.documents:
            raise ValueError(
                f"no document in {', '.join(sources)} ({len(self.bad_rows)} malformed rows); "
                "nothing was written"
            )
        self._builder.finalize(str(self._temporary[".idx"]))
        listing = with_suffix(self._prefix, ".bad_rows.txt")
        listing.unlink(missing_ok=True)
        if self.bad_rows:
            listing.write_text("".join(f"{row}\n" for row in self.bad_rows), encoding="utf-8")
            print(f"{len(self.bad_rows)} malformed rows left out: {listing}", file=sys.stderr)
        for suffix, file in self._temporary.items():
            os.replace(file, with_suffix(self._prefix, suffix))
        self._write_sidecar(sources)
        return Summary(str(self._prefix), self.documents, self.tokens, len(self.bad_rows))

    def _write_sidecar(self, sources: list[str]) -> None:
        cfg = dataclasses.asdict(self._tokenizer.cfg)
        sidecar = {
            "format": SIDECAR_FORMAT,
            "tokenizer_fingerprint": self._tokenizer.text_fingerprint(),
            "tokenizer": {"type": cfg["type"], "path": cfg["path"]},
            "documents": self.documents,
            "tokens": self.tokens,
            "bad_rows": len(self.bad_rows),
            "bin_bytes": self.tokens * self._itemsize,
            "sources": sources,
        }
        part = with_suffix(self._prefix, f".part-{os.getpid()}.json")
        part.write_text(json.dumps(sidecar, indent=1) + "\n", encoding="utf-8")
        os.replace(part, with_suffix(self._prefix, ".json"))
