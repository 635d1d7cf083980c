"""Validation sums: loss and accuracy of filling blanks, on vocabulary-parallel logits."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.distill.batch import batch_of
from glmkd_nemo.distill.losses import cross_entropy
from glmkd_nemo.models.logits import Logits


class HeldOut:
    """Sums over a validation set; the result does not depend on the parallel layout.

    Args:
        device: where sums are kept.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, losses: list[dict[str, Tensor]]) -> None:
        """Adds the micro-batches of a schedule (none before the last pipeline stage)."""
        for row in losses:
            self._sums += row["sums"]

    def result(self) -> dict[str, float]:
        """``val_loss`` (nats per token) and ``val_accuracy``, equal on all ranks."""
        sums = self._sums.clone()
        if parallel_state.get_pipeline_model_parallel_world_size() > 1:
            torch.distributed.broadcast(
                sums,
                src=parallel_state.get_pipeline_model_parallel_last_rank(),
                group=parallel_state.get_pipeline_model_parallel_group(),
            )
        if parallel_state.get_data_parallel_world_size() > 1:
            torch.distributed.all_reduce(sums, group=parallel_state.get_data_parallel_group())
        loss, tokens, right = sums.tolist()
        tokens = max(tokens, 1.0)
        return {"val_loss": loss / tokens, "val_accuracy": right / tokens}


def forward_step(data_iterator: Any, model: Any) -> tuple[Any, Any]:
    """mcore's ``forward_step_func`` for :class:`HeldOut`; the same whatever trained the model."""
    batch = next(data_iterator)
    output = model(
        batch["input_ids"], batch["position_ids"], batch["attention_mask"], materialize=False
    )
    return output, partial(_loss, batch)


def _loss(batch: dict[str, Tensor], logits: Logits) -> tuple[Tensor, dict[str, Tensor]]:
    result = sums(logits, batch["labels"], batch["loss_mask"])
    return result[0].clone(), {"sums": result}


def token_mean(batch: dict[str, Tensor], logits: Logits) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of pre-training: cross entropy in nats per token to be predicted.

    Args:
        batch: micro-batch, see :func:`~glmkd_nemo.distill.batch.batch_of`.
        logits: handle of this rank's columns; only rows that carry loss are computed.

    Returns:
        The mean over the micro-batch, and no further parts.
    """
    where = batch_of(batch).positions("target")
    labels_n = logits.columns_of(where.of(batch["labels"]))
    loss_n = cross_entropy(logits.rows(where), labels_n, logits.columns.start)
    weight_n = where.of(batch["loss_mask"])
    return (loss_n * weight_n).sum() / weight_n.sum().clamp(min=1), {}


@torch.no_grad()
def sums(logits: Logits, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Sums over the positions that carry loss.

    Args:
        logits: handle of this rank's columns (the real vocabulary only).
        labels: ``[b, s]``.
        loss_mask: ``[b, s]``, 1 where a token is to be predicted.

    Returns:
        ``[3]`` in fp64: sum of cross entropy in nats, number of tokens, number of tokens whose
        most likely word is the label, or shares its logit (by a vocabulary map). Equal on all
        tensor-parallel ranks.
    """
    nats_n, right_n = of_tokens(logits, labels, loss_mask > 0)
    return torch.stack([nats_n, torch.ones_like(nats_n), right_n.double()]).sum(1)


def of_tokens(logits: Logits, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Of the tokens where ``mask [b, s]`` is true: -log p in nats (fp64), and which are the most
    likely ones (or share the most likely one's logit). Both ``[n]``, equal on all TP ranks."""
    labels_n = logits.columns_of(labels[mask])
    logits_nv = logits.rows(mask).float()
    nats_n = cross_entropy(logits_nv.double(), labels_n, logits.columns.start)
    best_n = _most_likely(logits_nv, logits.columns.start)
    return nats_n, logits.rows_of(best_n) == logits.rows_of(labels_n)


def _most_likely(logits_nv: Tensor, first_column: int) -> Tensor:
    """Vocabulary id of the largest logit over all ranks, the smallest id in a tie."""
    if logits_nv.shape[1]:
        best_n, word_n = logits_nv.max(dim=1)
        word_n = word_n + first_column
    else:  # a rank whose columns are all padding
        best_n = logits_nv.new_full((logits_nv.shape[0],), float("-inf"))
        word_n = torch.zeros_like(best_n, dtype=torch.int64)
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        return word_n
    group = parallel_state.get_tensor_model_parallel_group()
    top_n = best_n.clone()
    torch.distributed.all_reduce(top_n, op=torch.distributed.ReduceOp.MAX, group=group)
    word_n = torch.where(best_n == top_n, word_n, torch.iinfo(torch.int64).max)
    torch.distributed.all_reduce(word_n, op=torch.distributed.ReduceOp.MIN, group=group)
    return word_n
