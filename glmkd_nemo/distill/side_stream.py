"""A CUDA stream for teachers beside the student's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.models.logits import Logits


class SideStream:
    """Work that is queued beside the student's, and handed over to it by events.

    What the main stream had queued when :meth:`see` was called comes before all that is queued
    here later, and nothing else of it: the student's passes go on meanwhile.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._seen: Any = None

    def see(self) -> None:
        """New batches are there (their copies to the device are queued on the main stream)."""
        self._seen = torch.cuda.current_stream().record_event()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Inside, work is queued here."""
        with torch.cuda.stream(self._stream):
            if self._seen is not None:
                self._stream.wait_event(self._seen)
            yield

    def done(self) -> Any:
        """An event after all that is queued so far."""
        return self._stream.record_event()

    def hand_over(self, event: Any, values: Any) -> None:
        """Has the main stream wait, and keeps the memory of ``values`` until it has read them."""
        main = torch.cuda.current_stream()
        main.wait_event(event)
        for x in tensors_in(values):
            if x.is_cuda:
                x.record_stream(main)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors inside containers, taps, batches, edits and handles of logits."""
    found: dict[int, Tensor] = {}
    met: set[int] = set()
    rest = [value]
    while rest:
        now = rest.pop()
        if id(now) in met:
            continue
        met.add(id(now))
        if isinstance(now, Tensor):
            found[id(now)] = now
        elif isinstance(now, Mapping):
            rest += now.values()
        elif isinstance(now, list | tuple):
            rest += now
        elif isinstance(now, partial):
            rest += [now.args, now.keywords]
        elif dataclasses.is_dataclass(now) or type(now).__module__ == Logits.__module__:
            rest += vars(now).values()
    return list(found.values())
