"""Random windows of text from a split of indexed corpora."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import numpy.typing as npt

from glmkd_nemo.data.indexed import IndexedCorpus
from glmkd_nemo.data.tokenizer import GLMTokenizer

Ids = npt.NDArray[np.int64]
SPLITS = ("train", "valid", "test")


def parse_split(text: str) -> tuple[float, float, float]:
    """Shares of train, validation and test: "949,50,1" (or with /), scaled to sum 1.

    Raises:
        ValueError: not one to three numbers >= 0 with a positive sum.
    """
    try:
        shares = [float(part) for part in str(text).replace("/", ",").split(",")]
    except ValueError:
        shares = []
    shares += [0.0] * (3 - len(shares))
    if len(shares) != 3 or min(shares) < 0 or not 0 < sum(shares) < float("inf"):
        raise ValueError(f"data.split={text!r}: give up to three shares >= 0, e.g. '949,50,1'")
    total = sum(shares)
    return shares[0] / total, shares[1] / total, shares[2] / total


def split_documents(count: int, shares: Sequence[float], split: str) -> npt.NDArray[np.int64]:
    """Documents of a split, ascending; the assignment depends on `count` and `shares` only.

    Neighbours in the file fall into different splits: corpora are often sorted by subject.
    """
    order = np.argsort(_mix(np.arange(count, dtype=np.uint64)), kind="stable")
    ends = [round(count * sum(shares[: i + 1])) for i in range(3)]
    which = SPLITS.index(split)
    return np.sort(order[ends[which - 1] if which else 0 : ends[which]])


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 finaliser: a fixed bijection that scatters integers (wraps by design)."""
    values = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class WindowSource:
    """Windows that begin with the start token and, mostly, with a sentence.

    Args:
        corpus: documents.
        documents: those that may be drawn, [n].
        tokenizer: command tokens and sentence ends.
        size: most tokens of a window.
        non_sentence_start: share of windows that may begin anywhere.
        across: fill up with further documents where one is too short.
    """

    def __init__(
        self,
        corpus: IndexedCorpus,
        documents: npt.NDArray[np.int64],
        tokenizer: GLMTokenizer,
        size: int,
        non_sentence_start: float,
        across: bool,
    ) -> None:
        self._corpus = corpus
        self._documents = documents
        self._cls, self._eos = tokenizer.cls_id, tokenizer.eos_id
        self._ends_sentence = tokenizer.sentence_ends
        self._size = size
        self._non_sentence_start = non_sentence_start
        self._across = across
        # Documents are drawn by length; each has its end token (+ 1).
        self._ends = np.cumsum(corpus.lengths[documents] + 1)
        self.tokens = int(self._ends[-1]) if len(documents) else 0

    def draw(self, rng: Random) -> Ids:
        """A window [at most size], starting with ENC; documents end with their end token."""
        document = self._draw_document(rng)
        total = self._length(document)
        if total + 1 > self._size:
            return self._inside(document, total, rng)
        window = self._with_start(self._read(document, 0, total))
        while self._across and len(window) < self._size:
            document = self._draw_document(rng)
            room = self._size - len(window)
            total = self._length(document)
            # One token more than fits tells `_cut` whether there is anything to cut.
            more = self._with_start(self._read(document, 0, min(total, room + 1)))
            window = np.concatenate((window, self._cut(more, room)))
            if total + 1 >= room:
                break
        return window

    def _draw_document(self, rng: Random) -> int:
        place = rng.randrange(self.tokens)
        return int(self._documents[np.searchsorted(self._ends, place, side="right")])

    def _length(self, document: int) -> int:
        return int(self._corpus.lengths[document]) + 1

    def _read(self, document: int, start: int, end: int) -> Ids:
        """Tokens of a document, its end token counted as its last."""
        tokens = self._corpus.read(document, start, end)
        if end == self._length(document):
            tokens = np.append(tokens, self._eos)
        return tokens

    def _with_start(self, tokens: Ids) -> Ids:
        return np.concatenate((np.array([self._cls], dtype=np.int64), tokens))

    def _inside(self, document: int, total: int, rng: Random) -> Ids:
        """A window within a long document."""
        reach = self._size // 2
        left = rng.randrange(total - self._size + 1)
        low = max(0, left - reach - 1)
        tokens = self._read(document, low, min(total, left + reach + self._size + 1))
        start = left - low
        if rng.random() > self._non_sentence_start:
            step = -1 if rng.random() < 0.5 else 1
            for _ in range(reach):
                if low + start == 0 or self._ends_sentence[tokens[start - 1]]:
                    break
                start += step
        return self._cut(self._with_start(tokens[start : start + self._size]), self._size)

    def _cut(self, tokens: Ids, room: int) -> Ids:
        """At most `room` tokens, ending with a sentence if that leaves at least half of it."""
        if len(tokens) <= room:
            return tokens
        ends = np.flatnonzero(self._ends_sentence[tokens[:room]])
        keep = int(ends[-1]) + 1 if len(ends) else 0
        return tokens[: keep if keep >= room // 2 else room]
