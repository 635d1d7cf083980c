"""Files of the original GLM, written: any model-parallel size, one weight in memory at a time.

PyTorch writes the file with its weights left open (``skip_data``), and they are filled in place
through a shared mapping. All shards are open at once, so a weight is read once.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from glmkd_nemo.checkpoint.original_shards import MAP, MODULE, NONPARAMETERS, SHARD, TRACKERS
from glmkd_nemo.checkpoint.partition import part_shape, split
from glmkd_nemo.checkpoint.pickles import Mapped
from glmkd_nemo.checkpoint.whole import Weights
from glmkd_nemo.models.vocab_map import Tables

_CLASSIFIER = ("pool_layer.", "multichoice_head.")
_OPTIONS = (
    *("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"),
    "attention_scale",
)
_MULTIPLE = 128  # the original's tables have an entry for each row of its padded vocabulary


def write_original(
    weights: Weights, folder: Path, size: int = 1, model: Mapping[str, Any] | None = None
) -> None:
    """Writes ``<folder>/<tag>/mp_rank_XX_model_states.pt`` and the tracker file.

    Args:
        weights: of any source; methods' own parameters (``student.*``) go with them.
        folder: exists.
        size: model-parallel size.
        model: its sizes, keys of the section ``model``, as far as they are known.

    Raises:
        ValueError: a weight cannot be divided so, by name.
        OSError: the disk is full or not writable.
    """
    metas = {**weights.metas, **weights.extras}
    fit = bool(weights.args.get("tinybert_fit_parallel"))
    parts = {n: (part_shape(n, t.shape, size, fit), t.dtype) for n, t in metas.items()}
    # a fine-tuned classifier wraps the model, and the original's names show it
    wrapped = any(name.startswith(_CLASSIFIER) for name in metas)
    names = {n: n if not wrapped or n.startswith(_CLASSIFIER) else f"model.{n}" for n in metas}
    tag = weights.tag or str(weights.iteration or 0)
    (folder / tag).mkdir(parents=True)
    files = [folder / tag / SHARD.format(rank) for rank in range(size)]
    rest: dict[str, Any] = {"iteration": weights.iteration or 0, "mp_world_size": size}
    rest["args"] = argparse.Namespace(**_args(weights, model or {}))
    tables = dict(weights.original_tables)
    if weights.tables is not None and not tables:
        tables = _tables(weights.tables)
    for file in files:
        _write_open(file, {names[n]: part for n, part in parts.items()}, tables, rest)
    shards = [Mapped(file, shared=True) for file in files]
    for shard in shards:
        for name, table in tables.items():
            shard.state[NONPARAMETERS][MAP][name].copy_(table)
    for name in metas:
        for shard, part in zip(shards, split(name, weights.read(name), size, fit), strict=True):
            shard.state[MODULE][names[name]].copy_(part)
            shard.used(part.nbytes)
    (folder / TRACKERS[0]).write_text(tag, encoding="utf-8")


def _args(weights: Weights, model: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the original would save them: what tensors do not tell must not be lost."""
    found = {name: model[name] for name in _OPTIONS if model.get(name) is not None}
    unmapped = (model.get("vocab_map") or {}).get("unmap_output")
    if weights.tables is not None and unmapped is not None:
        found["unmap_vocab_output"] = bool(unmapped)
    return {**weights.args, **found}


def _write_open(
    file: Path,
    parts: Mapping[str, tuple[Sequence[int], torch.dtype]],
    tables: Mapping[str, Tensor],
    rest: Mapping[str, Any],
) -> None:
    """Writes a file with the space of its tensors left open."""
    with FakeTensorMode():
        module = OrderedDict((n, torch.empty(s, dtype=t)) for n, (s, t) in parts.items())
        paras = {n: torch.empty(t.shape, dtype=t.dtype) for n, t in tables.items()}
    state = {MODULE: module, NONPARAMETERS: {MAP: paras} if paras else {}, **rest}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(state, file)


def _tables(tables: Tables) -> dict[str, Tensor]:
    """The original's three tables; ids that only pad its vocabulary stand for the last token."""
    rows = tables.row_of_id
    padding = -len(rows) % _MULTIPLE
    rows = torch.cat([rows, rows[-1:].expand(padding)])
    kept = torch.zeros(len(rows), dtype=torch.bool)
    kept[tables.kept_ids] = True
    others = (~kept).nonzero().squeeze(-1)
    return {
        "origin_id_to_target_pos": rows,
        "origin_id_mask_map": kept,
        "target_pos_to_origin_id": torch.cat([tables.kept_ids, others]),
    }
