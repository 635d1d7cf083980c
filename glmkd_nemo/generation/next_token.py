"""Logits of the next token over the whole vocabulary, with and without a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.inference.contexts import StaticInferenceContext
from torch import Tensor

from glmkd_nemo.distill.parallel import all_gather_last
from glmkd_nemo.engine import schedule
from glmkd_nemo.generation.prompt import Prefixes
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.logits import Logits

Inputs = tuple[Tensor, Tensor, Tensor]  # ids, positions, attention mask


class KeyValueCache(StaticInferenceContext):
    """Keys and values of the prefixes and of the tokens generated after them.

    Prefixes are padded on the right; :attr:`visible` hides the padding from what comes after, so
    that generated tokens stand in the same columns in all rows.

    Args:
        model: of which it has the states.
        prefixes: what is read, once per prompt.
        beams: rows per prompt from then on.
        max_new_tokens: room for generated tokens, the start token included.
    """

    is_compileable = False  # asked for by transformers

    def __init__(self, model: GLMModel, prefixes: Prefixes, beams: int, max_new_tokens: int):
        count, self.width = prefixes.ids.shape
        super().__init__(count, self.width + max_new_tokens)
        _run(model, (prefixes.ids, prefixes.positions, prefixes.sep), self)
        rows = torch.arange(count, device=prefixes.ids.device).repeat_interleave(beams)
        self.max_batch_size = len(rows)
        if beams > 1:
            self.swap_rows(rows, 0)
        columns = torch.arange(self.max_sequence_length, device=rows.device)
        padding = (columns >= prefixes.lengths.unsqueeze(1)) & (columns < self.width)
        self.visible = ~padding[rows]

    def swap_rows(self, rows: Tensor, start: int) -> None:
        """Row ``i`` becomes what row ``rows[i]`` was, from column ``start`` on."""
        memory = self.key_value_memory_dict
        for layer, (keys, values) in memory.items():
            if start == 0:
                memory[layer] = keys[:, rows], values[:, rows]
                continue
            end = self.sequence_len_offset + 1
            keys[start:end] = keys[start:end, rows]
            values[start:end] = values[start:end, rows]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beams of a prompt change places (called by transformers); its prefix is the same."""
        self.swap_rows(beam_idx, self.width)

    def get_seq_length(self, *ignored: Any) -> int:
        """None of the ids that transformers knows of are in the prefix."""
        return 0


def cached_step(model: GLMModel, prefixes: Prefixes, cache: KeyValueCache, ids: Tensor) -> Tensor:
    """Logits ``[n, V]`` after the newest of ``ids [n, t]``; the ones before it are cached."""
    count = ids.shape[1]
    cache.sequence_len_offset = cache.width + count - 1
    positions = torch.stack([prefixes.places, torch.full_like(prefixes.places, count)], 1)
    mask = cache.visible[:, None, None, : cache.width + count]
    inputs = ids[:, -1:], positions.unsqueeze(-1), mask
    newest = torch.ones_like(ids[:, -1:], dtype=torch.bool)
    return _next_token(model, _run(model, inputs, cache), newest)


def whole_step(model: GLMModel, prefixes: Prefixes, ids: Tensor) -> Tensor:
    """Logits ``[n, V]`` after ``ids [n, t]``, everything being computed.

    A row's tokens follow its prefix directly, as in training; padding comes last.
    """
    (n, t), width = ids.shape, prefixes.ids.shape[1]
    columns = prefixes.lengths.unsqueeze(1) + torch.arange(t, device=ids.device)
    all_ids = F.pad(prefixes.ids, (0, t)).scatter(1, columns, ids)
    inside = torch.arange(1, t + 1, device=ids.device).expand(n, t)
    own = torch.stack([prefixes.places.unsqueeze(1).expand(n, t), inside], 1)
    positions = F.pad(prefixes.positions, (0, t)).scatter(
        2, columns.unsqueeze(1).expand(n, 2, t), own
    )
    last = torch.arange(width + t, device=ids.device) == columns[:, -1:]
    logits = _run(model, (all_ids, positions, prefixes.sep), None)
    return _next_token(model, logits, last)


def _run(model: GLMModel, inputs: Inputs, cache: KeyValueCache | None) -> Logits | None:
    """Runs all pipeline stages; the last one gets the logits."""

    def forward(data: Any, stage: GLMModel) -> tuple[Any, Any]:
        output = stage(*inputs, materialize=False, inference_context=cache)
        found.append(output if stage.post_process else None)
        return output, lambda handle: (torch.zeros(()), {})

    found: list[Logits | None] = []
    if _stages() == 1:
        forward(None, model)
    else:
        schedule.run(forward, [{"input_ids": inputs[0]}], [model], forward_only=True)
    return found[0]


def _next_token(model: GLMModel, logits: Logits | None, rows: Tensor) -> Tensor:
    """Logits ``[n, V]`` in fp32 where ``rows [b, s]`` holds, equal on all ranks."""
    if logits is not None:
        whole = whole_vocabulary(model, logits, rows).float().contiguous()
    else:
        whole = torch.empty(len(rows), model.config.vocab_size, device=rows.device)
    if _stages() > 1:
        dist.broadcast(
            whole,
            src=parallel_state.get_pipeline_model_parallel_last_rank(),
            group=parallel_state.get_pipeline_model_parallel_group(),
        )
    return whole


def _stages() -> int:
    return int(parallel_state.get_pipeline_model_parallel_world_size())


def whole_vocabulary(model: GLMModel, logits: Logits, positions: Tensor) -> Tensor:
    """Logits over the whole vocabulary, equal on all tensor-parallel ranks.

    Tokens that a vocabulary map leaves out have -inf: they share the logits of the kept tokens
    that stand for them, and nothing could tell them apart.

    Args:
        model: says which tokens there are.
        logits: its output.
        positions: ``[b, s]`` booleans, ``n`` of them true.

    Returns:
        ``[n, V]``.
    """
    if model.vocab_map is not None:
        logits = logits.kept()
    here = logits.rows(positions)
    here = F.pad(here, (0, logits.width - here.shape[1]), value=float("-inf"))
    whole = all_gather_last(here)[:, : logits.vocab_size]
    if logits.tokens is None:
        return whole
    out = whole.new_full((len(whole), model.config.vocab_size), float("-inf"))
    out[:, logits.tokens] = whole
    return out


@contextmanager
def decoding(model: GLMModel) -> Iterator[None]:
    """Evaluation mode without sequence parallelism, as a single token cannot be cut."""
    training, owners = model.training, _sequence_parallel(model)
    model.eval()
    for owner in owners:
        owner.sequence_parallel = False
    try:
        yield
    finally:
        for owner in owners:
            owner.sequence_parallel = True
        model.train(training)


def _sequence_parallel(model: GLMModel) -> list[Any]:
    """Modules and configurations that cut sequences; a bottleneck has one of its own."""
    owners = [*model.modules(), *(getattr(m, "config", None) for m in model.modules())]
    unique = {id(owner): owner for owner in owners}
    return [o for o in unique.values() if getattr(o, "sequence_parallel", False) is True]
