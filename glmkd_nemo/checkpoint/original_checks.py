"""Whether shards of an original checkpoint belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from glmkd_nemo.checkpoint.original_shards import MAP, NONPARAMETERS, SHARD, Shard
from glmkd_nemo.checkpoint.partition import kind_of
from glmkd_nemo.checkpoint.whole import Metas

_TABLES = ("origin_id_to_target_pos", "origin_id_mask_map", "target_pos_to_origin_id")


def stranger(other: Shard, first: Shard, what: str) -> ValueError:
    """The error of a shard that belongs elsewhere."""
    return ValueError(
        f"{other.path} is a shard of another model than {first.path.name}: {what}. Put the shards "
        "of one checkpoint together."
    )


def check_number(shards: Sequence[Shard], metas: Metas) -> None:
    """That no shard at the end is missing: the attention's output projection is a square.

    Raises:
        FileNotFoundError, ValueError: by name of the folder.
    """
    here, folder = len(shards), shards[0].path.parent
    said = shards[0].rest.get("mp_world_size")
    if isinstance(said, int) and said != here:
        raise FileNotFoundError(
            f"{folder} has {here} of {said} shards, says {shards[0].path.name} (mp_world_size): "
            "copy all of them, and no others."
        )
    for name, whole in metas.items():
        if name.endswith("attention.dense.weight") and whole.shape[0] != whole.shape[1]:
            needed = whole.shape[0] * here // whole.shape[1]
            if needed > here:
                raise FileNotFoundError(
                    f"{folder / SHARD.format(here)} is missing: {name} tells of {needed} shards, "
                    f"of which there are {here}. Copy all of them."
                )
            raise ValueError(f"{folder}: {name} of {needed} shards, but there are {here}.")


def check_rest(shards: Sequence[Shard]) -> Mapping[str, Tensor]:
    """The tables of the vocabulary map; they and the iteration are the same in all shards.

    Raises:
        ValueError: names the shard that differs, or whose tables are none.
    """
    first, tables = shards[0], _tables(shards[0])
    for other in shards[1:]:
        for name in ("iteration", "mp_world_size"):
            here, there = (s.rest.get(name) for s in (first, other))
            if here != there:
                raise stranger(other, first, f"its {name} is {there}, not {here}")
        found = _tables(other)
        if found.keys() != tables.keys() or any(not equal(found[n], tables[n]) for n in tables):
            raise stranger(other, first, "its vocabulary map is another one")
    return tables


def _tables(shard: Shard) -> Mapping[str, Tensor]:
    paras = shard.nonparameters.get(MAP)
    if not paras:
        return {}
    if isinstance(paras, Mapping) and set(paras) == set(_TABLES):
        rows, kept, order = (paras[name] for name in _TABLES)
        if all(isinstance(t, Tensor) and t.dim() == 1 for t in (rows, kept, order)):
            size = len(rows)
            ids = order[: int(kept.sum())]
            known = not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < size)
            if size and len(kept) == size and len(ids) == int(kept.sum()) > 0 and known:
                return paras
    raise ValueError(
        f"{shard.path}: {NONPARAMETERS}.{MAP} is no vocabulary map of the original, which has the "
        f"tables {', '.join(_TABLES)}, with one entry per token."
    )


def check_copies(shards: Sequence[Shard], metas: Metas) -> None:
    """Two files of one shard, one under another's name.

    Raises:
        ValueError: names both.
    """
    names = sorted((n for n in metas if kind_of(n) != "whole"), key=lambda n: metas[n].numel())
    for number, other in enumerate(shards):
        for first in shards[:number]:
            if all(equal(first.tensor(name), other.tensor(name)) for name in names):
                raise ValueError(
                    f"{other.path} is a copy of {first.path.name}: copy the right shard there."
                )


def equal(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are the same, NaN and all."""
    if torch.equal(left, right):
        return True
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    bits = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right))
    return torch.equal(*bits)
