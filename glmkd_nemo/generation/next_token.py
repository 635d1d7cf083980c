"""Logits of the next token over the whole vocabulary, with and without a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.inference.contexts import StaticInferenceContext
from torch import Tensor

from glmkd_nemo.distill.parallel import all_gather_last
from glmkd_nemo.generation.prompt import Prefixes
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.logits import Logits


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

    def __init__(self, model: GLMModel, prefixes: Prefixes, beams: int, max_new_tokens: int):
        count, self.width = prefixes.ids.shape
        super().__init__(count, self.width + max_new_tokens)
        model(
            prefixes.ids,
            prefixes.positions,
            prefixes.sep,
            materialize=False,
            inference_context=self,
        )
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

    is_compileable = False


def cached_step(model: GLMModel, prefixes: Prefixes, cache: KeyValueCache, ids: Tensor) -> Tensor:
    """Logits ``[n, V]`` after the newest of ``ids [n, t]``; the ones before it are cached."""
    count = ids.shape[1]
    cache.sequence_len_offset = cache.width + count - 1
    positions = torch.stack([prefixes.places, torch.full_like(prefixes.places, count)], 1)
    logits = model(
        ids[:, -1:],
        positions.unsqueeze(-1),
        cache.visible[:, None, None, : cache.width + count],
        materialize=False,
        inference_context=cache,
    )
    return whole_vocabulary(model, logits, torch.ones_like(ids[:, -1:], dtype=torch.bool))


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
    logits = model(all_ids, positions, prefixes.sep, materialize=False)
    last = torch.arange(width + t, device=ids.device) == columns[:, -1:]
    return whole_vocabulary(model, logits, last)


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
