"""Whole tensors from shards and stages, for checks and exports of small models."""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import WORD_EMBEDDINGS, whole_model_name
from glmkd_nemo.distill.method import Batch
from glmkd_nemo.engine import schedule
from glmkd_nemo.models.glm import GLMModel


def whole_gradients(model: GLMModel) -> dict[str, Tensor]:
    """Gradients of a model under Megatron-Core's DDP, under their whole-model names.

    Call it on every rank, after the gradients are reduced. Parameters that got none are left out.
    """
    mine = {
        whole_model_name(model, name): whole_tensor(parameter.main_grad, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    mine = {name: g.clone() for name, g in mine.items() if bool(g.any())}
    if WORD_EMBEDDINGS in mine:
        mine[WORD_EMBEDDINGS] = mine[WORD_EMBEDDINGS][: model.config.word_rows]
    return _of_all_stages(mine)


def whole_tensor(x: Tensor, parameter: Tensor) -> Tensor:
    """A parameter's tensor ``x`` (its values, its gradient), gathered over tensor parallelism."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return x
    group = parallel_state.get_tensor_model_parallel_group()
    shards = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(shards, x.contiguous(), group=group)
    return torch.cat(shards, int(parameter.partition_dim))  # type: ignore[attr-defined]


def _of_all_stages(mine: dict[str, Tensor]) -> dict[str, Tensor]:
    group = parallel_state.get_pipeline_model_parallel_group()
    everyone: list[dict[str, Tensor]] = [{} for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(everyone, mine, group=group)
    return {name: g for stage in reversed(everyone) for name, g in stage.items()}


@torch.no_grad()
def whole_logits(model: GLMModel, batch: Batch) -> Tensor:
    """Logits ``[b, s, V]`` of all positions over the real vocabulary, on every rank.

    Those of the answers ``[b, c]``, where the batch is a task's and the model has a head.
    """
    found: list[Tensor] = []

    def forward(data: object, model: GLMModel) -> tuple[Tensor, object]:
        output = model(batch.input_ids, batch.position_ids, batch.attention_mask, task=batch.task)
        if parallel_state.is_pipeline_last_stage():
            classes = model.head is not None and batch.task is not None
            found.append(output if classes else _all_columns(output, model.config.output_size))
        return output, lambda x: (x.sum(), {})

    schedule.run(forward, [{"input_ids": batch.input_ids}], [model], forward_only=True)
    box: list[object] = [found[0] if found else None]
    dist.broadcast_object_list(
        box,
        src=parallel_state.get_pipeline_model_parallel_last_rank(),
        group=parallel_state.get_pipeline_model_parallel_group(),
    )
    logits = box[0]
    assert isinstance(logits, Tensor)
    return logits


def _all_columns(logits: Tensor, vocab_size: int) -> Tensor:
    group = parallel_state.get_tensor_model_parallel_group()
    shards: list[Tensor | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(shards, logits, group=group)  # shards may differ in width
    whole = torch.cat([shard for shard in shards if shard is not None], -1)
    assert whole.shape[-1] == vocab_size
    return whole
