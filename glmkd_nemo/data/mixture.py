"""Mixes supervised tasks into pre-training text (the reference's multi-task pre-training)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Protocol

from torch.utils.data import Dataset


class SizedDataset(Protocol):
    """A map-style dataset with a length."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...


def task_weights(
    sizes: Sequence[int], temperature: float = 0.8, max_size: int = 200_000
) -> list[float]:
    """Shares of tasks: min(size, max_size) ** temperature, scaled to sum 1.

    A temperature below 1 lifts small tasks; 0 draws all alike.

    Raises:
        ValueError: an empty task, or none.
    """
    if not sizes or min(sizes) <= 0:
        raise ValueError(f"multi-task mix: every task needs at least one sample, got {list(sizes)}")
    raw = [min(size, max_size) ** temperature for size in sizes]
    return [weight / sum(raw) for weight in raw]


class MultiTaskMixture(Dataset[dict[str, Any]]):
    """Item i is text, or with probability `ratio` a sample of one of the tasks.

    Depends only on (seed, i) and the datasets, like `corpus.BlockDataset`; all of them must give
    items of one shape.

    Args:
        text: pre-training samples; its length is the length of the mixture.
        tasks: supervised datasets by name.
        ratio: share of task samples.
        seed: of the draws.
        temperature, max_size: see `task_weights`.

    Raises:
        ValueError: `ratio` outside 0..1, or a task without samples.
    """

    def __init__(
        self,
        text: SizedDataset,
        tasks: Mapping[str, SizedDataset],
        ratio: float,
        seed: int,
        temperature: float = 0.8,
        max_size: int = 200_000,
    ) -> None:
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"multi-task mix: ratio={ratio} is not between 0 and 1")
        self._text = text
        self._tasks = list(tasks.values())
        self._ratio = ratio
        self._seed = seed
        self.weights = task_weights([len(t) for t in self._tasks], temperature, max_size)

    def __len__(self) -> int:
        return len(self._text)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The text's item, or a random sample of a random task."""
        rng = Random(f"{self._seed}/tasks/{int(index)}")
        if rng.random() >= self._ratio:
            return self._text[index]
        task = rng.choices(self._tasks, weights=self.weights)[0]
        return task[rng.randrange(len(task))]
