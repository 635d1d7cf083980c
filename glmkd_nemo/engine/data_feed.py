"""Datasets and loaders of a run: whole global batches, resumed by sample count."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core import parallel_state

Collate = Callable[[Sequence[Any]], dict[str, Any]]


class Feed:
    """Yields the batches that are left, and counts all of them.

    Lightning compares the number of the batch with the length of the loader; after a resume the
    number goes on from the checkpoint, so the length must be that of the whole run.

    Args:
        loader: yields the remaining batches of this data-parallel rank.
        total: batches of the whole run.
        first: batches of the run before these.

    Attributes:
        look_ahead: set before iterating to fetch a batch while the one before it is in use.
        number: of the batch that was yielded last, over the whole run.
        following: with ``look_ahead``, the one after it, if there is one. It does not count as
            used: a resumed run reads it again.
    """

    look_ahead = False

    def __init__(self, loader: Any, total: int, first: int = 0) -> None:
        self.loader = loader
        self.total, self.first = total, first
        self.number = first - 1
        self.following: dict[str, Any] | None = None

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        batches = iter(self.loader)
        coming = next(batches, None) if self.look_ahead else None
        for number in itertools.count(self.first):
            now = coming if self.look_ahead else next(batches, None)
            if now is None:
                return
            coming = next(batches, None) if self.look_ahead else None
            self.number, self.following = number, coming
            yield now


def build(cfg: Any, tokenizer: Any, split: str, num_samples: int, seed: int) -> Any:
    """Builds a dataset of ``cfg.data``; the first rank first, so that caches are written once.

    Raises:
        ValueError: no corpus is configured.
        FileNotFoundError: a corpus file is missing.
    """
    from glmkd_nemo.data.corpus import build_dataset

    length = int(cfg.encoder_seq_length)
    box: list[Any] = [None]
    dataset = None
    if torch.distributed.get_rank() == 0:
        try:
            dataset = build_dataset(cfg.data, tokenizer, length, split, num_samples, seed)
        except (ValueError, OSError) as error:
            box = [error]
    torch.distributed.broadcast_object_list(box, src=0)
    if box[0] is not None:
        raise box[0]  # on all ranks: nobody is left waiting
    if dataset is None:
        dataset = build_dataset(cfg.data, tokenizer, length, split, num_samples, seed)
    return dataset


def loader(
    module: Any, dataset: Any, consumed_samples: int, collate: Collate | None = None
) -> Feed | None:
    """A loader of this data-parallel rank's part of each global batch.

    Args:
        module: the ModelPT whose ``cfg`` says batch size and workers.
        dataset: map-style, or None for no loader.
        consumed_samples: samples to skip, over all ranks.
        collate: makes a batch of items (default: stacks the arrays of pre-training).
    """
    from glmkd_nemo.data.loader import build_loader
    from glmkd_nemo.data.sampler import GlobalBatchSampler

    if dataset is None:
        return None
    cfg = module.cfg
    size = int(cfg.global_batch_size)
    sampler = GlobalBatchSampler(
        len(dataset),
        consumed_samples,
        size,
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_data_parallel_world_size(),
    )
    workers = int((cfg.get("data") or {}).get("num_workers") or 0)
    batches = build_loader(dataset, sampler, workers, collate)
    return Feed(batches, len(dataset) // size, consumed_samples // size)


def validation_batches(trainer: Any) -> int:
    """Global batches per validation.

    Raises:
        ValueError: ``trainer.limit_val_batches`` is a share; the held-out samples are drawn, so
            only a number says how many.
    """
    limit = trainer.limit_val_batches
    if isinstance(limit, float) and limit != 0.0:
        raise ValueError(
            f"trainer.limit_val_batches={limit}: give a whole number of global batches, e.g. 10"
        )
    return int(limit)
