"""Scores of a task's examples: logits of answers, or sums over tokens, in any parallel layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from megatron.core import parallel_state
from torch import Tensor
from torch.utils.data import DataLoader

from glmkd_nemo.engine.blank_filling import of_tokens
from glmkd_nemo.models.logits import Logits
from glmkd_nemo.tasks.task import Task

INDEX = "index"


def loader(task: Task, split: str, batch_size: int) -> DataLoader[Any]:
    """Batches of this data-parallel rank, each with its items' numbers as ``index [b]``.

    Every rank gets equally many batches, if need be some that another one has too.
    """
    items = task.dataset(split)
    starts = range(0, len(items), batch_size)
    batches = [list(range(i, min(i + batch_size, len(items)))) for i in starts]
    ranks = parallel_state.get_data_parallel_world_size()
    mine = batches[parallel_state.get_data_parallel_rank() :: ranks]
    if len(mine) < -(-len(batches) // ranks):
        mine.append(batches[0])

    def collate(numbers: Sequence[int]) -> dict[str, Any]:
        return {**task.collate(split, [items[i] for i in numbers]), INDEX: torch.tensor(numbers)}

    numbers: Any = range(len(items))
    return DataLoader(numbers, batch_sampler=mine, collate_fn=collate)


class ItemScores:
    """Scores by item, collected from all ranks."""

    def __init__(self) -> None:
        self._found: dict[int, npt.NDArray[np.float64]] = {}

    def add(self, rows: Sequence[dict[str, Tensor]]) -> None:
        """Adds what :func:`forward_step`'s loss function returned (nothing on inner stages)."""
        for row in rows:
            scores, real = row["scores"].double().cpu().numpy(), row["real"].cpu().numpy()
            for index, mine, valid in zip(row[INDEX].tolist(), scores, real, strict=True):
                self._found[index] = mine[valid]

    def gathered(self) -> list[npt.NDArray[np.float64]]:
        """One array per item, in order; all ranks call it and get the same."""
        every: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(every, self._found)
        whole = {index: scores for found in every for index, scores in found.items()}
        return [whole[index] for index in sorted(whole)]


def forward_step(data_iterator: Iterator[dict[str, Any]], model: Any) -> tuple[Any, Any]:
    """mcore's ``forward_step_func``: what follows from a batch is returned as its loss parts."""
    batch = next(data_iterator)
    task = batch.get("task")
    output = model(
        batch["input_ids"],
        batch["position_ids"],
        batch["attention_mask"],
        materialize=task is not None,
        task=task,
    )
    return output, partial(_of_answers if task is not None else _of_tokens, batch)


def _of_answers(batch: dict[str, Any], classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    mask = batch["task"].choice_mask
    real = torch.ones_like(classes, dtype=torch.bool) if mask is None else mask.bool()
    return classes.new_zeros(()), {"scores": classes, "real": real, INDEX: batch[INDEX]}


def _of_tokens(batch: dict[str, Any], logits: Logits) -> tuple[Tensor, dict[str, Tensor]]:
    scores = token_sums(logits, batch["labels"], batch["loss_mask"])
    parts = {"scores": scores, "real": torch.ones_like(scores, dtype=torch.bool)}
    return scores.new_zeros(()), {**parts, INDEX: batch[INDEX]}


@torch.no_grad()
def token_sums(logits: Logits, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Sums over the tokens of each sequence.

    Args:
        logits: handle of this rank's columns.
        labels: ``[b, s]``.
        loss_mask: ``[b, s]``, 1 where a token counts.

    Returns:
        ``[b, 4]`` in fp64: -log p in nats, tokens, most likely ones, 1 if all are most likely.
    """
    mask = loss_mask > 0
    nats_n, right_n = of_tokens(logits, labels, mask)
    row_n = mask.nonzero()[:, 0]
    per_token = torch.stack([nats_n, torch.ones_like(nats_n), right_n.double()], dim=1)
    sums = per_token.new_zeros(len(labels), 3).index_add(0, row_n, per_token)
    return torch.cat([sums, (sums[:, 1:2] == sums[:, 2:3]).double()], dim=1)
