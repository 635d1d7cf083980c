"""DataLoader of global batches."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from glmkd_nemo.data.sampler import GlobalBatchSampler


def collate(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stacks items: [b, s] ids, labels, loss mask; [b, 2, s] positions; [b] attention_mask."""
    return {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}


def _outlive(worker: int) -> None:
    """Has a worker ignore signals to the whole run, which still wants batches until it has stopped.

    Python ends its workers by SIGTERM too, so that it matters who sent it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has no such call, nor a Slurm that would need it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_parent, args=(os.getppid(),), daemon=True).start()


def _await_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


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
        worker_init_fn=_outlive,
    )
