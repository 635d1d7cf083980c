"""Seconds of a step by part, each without the parts inside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PARTS = ("data", "teacher", "student", "loss", "backward", "optimizer", "communication", "other")


class Parts:
    """A clock that knows what runs now.

    Attributes:
        seconds: by part, since :meth:`clear`.
        current: the innermost part that runs now.
        traced: mark the parts in a trace of torch's profiler.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.traced = False
        self._stack = ["other"]
        self._since = time.perf_counter()
        self._waits: Callable[[], None] | None = None

    @property
    def current(self) -> str:
        """The innermost part that runs now."""
        return self._stack[-1]

    def clear(self) -> None:
        """Starts the clock anew; from here on it waits for a GPU at the ends of parts."""
        self.seconds, self._waits = {}, _waiting()
        self._since = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """Seconds by part since :meth:`clear`."""
        self._book()
        self._waits = None
        return {**dict.fromkeys(PARTS, 0.0), **self.seconds}

    def _book(self) -> None:
        if self._waits is not None:
            self._waits()
        now = time.perf_counter()
        self.seconds[self.current] = self.seconds.get(self.current, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside counts as ``name``."""
        import torch

        self._book()
        self._stack.append(name)
        try:
            if self.traced:
                with torch.profiler.record_function(name):
                    yield
            else:
                yield
        finally:
            self._book()
            self._stack.pop()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose calls count as ``name``."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return counted


def _waiting() -> Callable[[], None] | None:
    """On a GPU work is only queued: the clock waits for it (and costs time: a split is no step)."""
    import torch

    return torch.cuda.synchronize if torch.cuda.is_available() else None
