"""DataLoader of global batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from glmkd_nemo.data.sampler import GlobalBatchSampler


def collate(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stacks items: [b, s] ids, labels, loss mask; [b, 2, s] positions; [b] attention_mask."""
    return {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}


def build_loader(
    dataset: Dataset[Any],
    sampler: GlobalBatchSampler,
    num_workers: int = 0,
    collate_fn: Callable[[Sequence[Any]], dict[str, Any]] | None = None,
) -> DataLoader[Any]:
    """Yields this rank's part of each global batch, [global / dp, ...].

    The batches do not depend on `num_workers`: an item makes its own draws.

    Args:
        dataset: of `build_dataset`.
        sampler: starts at the samples consumed so far.
        num_workers: loader processes; 0: load in this process.
        collate_fn: makes a batch of items (default: :func:`collate`).

    Raises:
        ValueError: `num_workers` is negative.
    """
    if num_workers < 0:
        raise ValueError(f"data.num_workers={num_workers} must be >= 0")
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn or collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
