"""Which tokens of a text become blanks: span lengths, places, sentences, short texts.

All draws come from one `random.Random`, in the reference's order, so that equal seeds give equal
samples (GLM, arXiv:2103.10360, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from random import Random

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Span = tuple[int, int]


class SpanLengths:
    """Poisson span lengths, cut to 1 .. max_length - 1.

    Args:
        mean: mean of the uncut Poisson law, in tokens.
        max_length: exclusive upper end.
    """

    def __init__(self, mean: float, max_length: int) -> None:
        weights = [
            math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(1, max_length)
        ]
        self._cumulative = list(accumulate(weights))
        self._lengths = range(1, max_length)
        total = self._cumulative[-1]
        self.mean = sum(k * w for k, w in zip(self._lengths, weights, strict=True)) / total
        square = sum(k * k * w for k, w in zip(self._lengths, weights, strict=True)) / total
        self.variance = square - self.mean**2

    def draw(self, rng: Random) -> int:
        """One length."""
        return rng.choices(self._lengths, cum_weights=self._cumulative)[0]

    def draw_until(self, total: int, rng: Random) -> list[int]:
        """Lengths whose sum is the first to reach `total`."""
        lengths: list[int] = []
        while sum(lengths) < total:
            lengths.append(self.draw(rng))
        return lengths

    def count_bound(self, total: int, deviations: float = 3.3) -> int:
        """A number of spans that `draw_until(total)` exceeds about once in two thousand draws."""
        spread = math.sqrt(max(total, 1) * self.variance / self.mean**3)
        return math.ceil(total / self.mean + 1 + deviations * spread)


def place_spans(lengths: Sequence[int], size: int, start: int, rng: Random) -> list[Span]:
    """Random places for spans in `size` tokens from `start`, in order, never adjacent."""
    free = size - sum(lengths) - len(lengths) + 1
    gaps = sorted(rng.randrange(free + 1) for _ in lengths)
    spans = []
    for gap, length in zip(gaps, lengths, strict=True):
        spans.append((start + gap, start + gap + length))
        start += length + 1
    return spans


def document_extents(tokens: Ids, eos_id: int, cls_id: int) -> list[tuple[int, int]]:
    """(start, length) of each document of a window, shortest first, without marker tokens.

    The last token of the window is never blanked, so a blank always has something after it.
    """
    bounds = [-1, *np.flatnonzero(tokens == eos_id).tolist()]
    end = len(tokens)
    extents = []
    for bound in reversed(bounds):
        start = bound + 1
        if start < len(tokens) and tokens[start] == cls_id:
            start += 1
        length = end - start
        if end == len(tokens) and length > 0:
            length -= 1
        extents.append((start, length))
        end = bound
    return sorted(extents, key=lambda extent: extent[1])


def spans_in_documents(
    tokens: Ids, lengths: list[int], ratio: float, eos_id: int, cls_id: int, rng: Random
) -> list[Span] | None:
    """Places spans so that none crosses a document's end.

    Short documents take up to `ratio` of their tokens, the longest takes the rest.

    Returns:
        Spans in the order they were placed, or None where they do not fit.
    """
    lengths = list(lengths)
    rng.shuffle(lengths)
    spans: list[Span] = []
    extents = document_extents(tokens, eos_id, cls_id)
    for i, (start, size) in enumerate(extents):
        longest = i == len(extents) - 1
        room = size if longest else int(size * ratio)
        taken, total = 0, 0
        # In the longest document each span also needs a token between it and the next.
        while taken < len(lengths) and total + lengths[taken] + taken * longest <= room:
            total += lengths[taken]
            taken += 1
        # A crowded short document may have too few gaps: then the draw has failed.
        if taken and size - total - taken + 1 < 0:
            return None
        if taken:
            spans += place_spans(lengths[:taken], size, start, rng)
        lengths = lengths[taken:]
    return None if lengths else spans


def sentence_spans(tokens: Ids, ends_sentence: Flags, eos_id: int, cls_id: int) -> list[Span]:
    """Sentences of a window, each with its end mark; document ends belong to none."""
    spans = []
    start = 1 if tokens[0] == cls_id else 0
    ends = ends_sentence[tokens]
    for i in np.flatnonzero(ends | (tokens == eos_id)).tolist():
        if ends[i] and start < i + 1:
            spans.append((start, i + 1))
        start = i + 1
    if start < len(tokens):
        spans.append((start, len(tokens)))
    return spans


def choose_sentences(sentences: list[Span], least: int, rng: Random) -> list[Span]:
    """Random sentences until at least `least` tokens are taken."""
    sentences = list(sentences)
    rng.shuffle(sentences)
    chosen, total = [], 0
    for start, end in sentences:
        chosen.append((start, end))
        total += end - start
        if total >= least:
            break
    return chosen


def shorten(tokens: Ids, target: int, ends_sentence: Flags, eos_id: int, rng: Random) -> Ids:
    """A stretch of at most `target` tokens that begins, and where possible ends, with a sentence.

    Args:
        tokens: text without a leading start token.
    """
    if target >= len(tokens):
        return tokens

    def after_boundary(i: int) -> bool:
        return bool(ends_sentence[tokens[i - 1]]) or tokens[i - 1] == eos_id

    start = rng.randrange(0, len(tokens) - target)
    while start > 0 and (tokens[start] == eos_id or not after_boundary(start)):
        start -= 1
    end = start + target
    while end > start and not after_boundary(end):
        end -= 1
    if end - start < target // 2:
        end = start + target
    return tokens[start:end]


def near_blanks(stretches: Sequence[Span], reach: int) -> list[int]:
    """Context positions within `reach` tokens of the end of a stretch between blanks, sorted.

    Args:
        stretches: (start, end) of the text between blanks, in the sequence with blanks put in.
    """
    near: set[int] = set()
    for start, end in stretches:
        if start:
            near.update(range(start, min(end, start + reach)))
        if end:
            near.update(range(max(start, end - reach), end))
    return sorted(near)
