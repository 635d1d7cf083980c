"""Slices of rows, for work that is done a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator


def even_size(n: int, most: int, step: int) -> int:
    """Length of pieces of ``n`` rows.

    Args:
        n: rows; 0 gives 1.
        most: rows that a piece may have.
        step: what the length should be a multiple of, where ``most`` is large enough.

    Returns:
        The smallest length with which there are no more pieces than necessary.
    """
    step = step if most >= step else 1
    count = max(1, -(-n // (most // step * step)))
    return -(-n // (count * step)) * step if n else 1


def pieces(rows: slice, most: int) -> Iterator[slice]:
    """Cuts ``rows``, which have a start and a stop, into pieces of ``most`` rows."""
    for start in range(rows.start, rows.stop, most):
        yield slice(start, min(start + most, rows.stop))


def within(whole: slice, some: slice) -> slice:
    """``some`` rows of ``whole``, counted from its start."""
    return slice(some.start - whole.start, some.stop - whole.start)
