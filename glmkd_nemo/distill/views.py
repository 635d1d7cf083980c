"""Several views of a micro-batch in one forward pass, stacked along the batch axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glmkd_nemo.distill.method import Batch, Taps
from glmkd_nemo.distill.taps import Tap, TapKey


def stacked(batches: Sequence[Batch]) -> Batch:
    """Batches one after the other along the first axis of every field, the task's too."""
    if len(batches) == 1:
        return batches[0]
    whole: Batch = _one_after_the_other(batches)
    return whole


def _one_after_the_other(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, np.ndarray):
        return np.concatenate(list(values))
    if not dataclasses.is_dataclass(first) or isinstance(first, type):
        return first
    names = [field.name for field in dataclasses.fields(first)]
    columns = {name: [getattr(value, name) for value in values] for name in names}
    fields = {name: _one_after_the_other(column) for name, column in columns.items()}
    return type(first)(**fields)


class Views:
    """Taps of a stacked forward pass, view by view.

    Args:
        taps: of the whole stack.
        sizes: rows of ``input_ids`` of each view.
    """

    def __init__(self, taps: Mapping[TapKey, Any], sizes: Sequence[int]) -> None:
        self._taps, self._sizes = taps, list(sizes)
        self._views: dict[int, Taps] = {}

    def __getitem__(self, view: int) -> Taps:
        """The taps of one view; made once, so that terms share the products of ``Logits``."""
        if len(self._sizes) == 1:
            return self._taps
        if view not in self._views:
            start = sum(self._sizes[:view])
            span = start, start + self._sizes[view], sum(self._sizes)
            self._views[view] = {key: _cut(tap, *span) for key, tap in self._taps.items()}
        return self._views[view]


def _cut(tap: Any, start: int, stop: int, total: int) -> Any:
    """Rows ``start`` to ``stop`` of ``total``; a task's taps have a row for several sequences."""
    if not isinstance(tap, Tap):
        return tap.samples(start, stop)
    rows = tap.value.shape[0]
    return tap.map(lambda x: x[start * rows // total : stop * rows // total])
