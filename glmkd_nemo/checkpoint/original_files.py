"""Files of the original GLM: ``<folder>/<tag>/mp_rank_XX_model_states.pt``, read.

Saved by DeepSpeed or plainly, at any model-parallel size; every entry is accounted for by name.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import our_name
from glmkd_nemo.checkpoint.partition import kind_of, merge, whole_shape
from glmkd_nemo.checkpoint.pickles import Mapped
from glmkd_nemo.checkpoint.whole import EXTRA, Metas, Weights, meta
from glmkd_nemo.models.vocab_map import from_original

SHARD = "mp_rank_{:02d}_model_states.pt"
TRACKERS = ("latest_checkpointed_iteration.txt", "latest")
MODULE, NONPARAMETERS, MAP = "module", "important_nonparameters", "glm.map_vocab_paras"
KNOWN = {  # entries of a file beside its weights, of plain saves and of DeepSpeed's
    *("iteration", "total_iters", "optimizer", "lr_scheduler", "client_lr_scheduler", "args"),
    *("random_rng_state", "np_rng_state", "torch_rng_state", "cuda_rng_state"),
    *("rng_tracker_states", NONPARAMETERS, "csr_tensor_module_names", "buffer_names"),
    *("sparse_tensor_module_names", "param_shapes", "frozen_param_shapes", "shared_params"),
    *("frozen_param_fragments", "skipped_steps", "global_steps", "global_samples"),
    *("dp_world_size", "mp_world_size", "ds_config", "ds_version", "data_sampler"),
    *("random_ltd", "zero_optimizer_state"),
}
_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_WRAPPERS = re.compile(r"((module|model|origin_model)\.)+")


def find_shards(source: Path, tag: str | None = None) -> list[Path]:
    """Files of a checkpoint by rank.

    Args:
        source: folder with a tracker file, the folder of a tag, or one of its files.
        tag: which one of the folder (default: what the tracker says).

    Raises:
        FileNotFoundError: there is no checkpoint, or a shard is missing.
    """
    if source.is_file():
        if not _FILE.fullmatch(source.name):
            return [source]
        source = source.parent
    folder = _folder(source, tag)
    found = {int(m[1]): f for f in folder.iterdir() if (m := _FILE.fullmatch(f.name))}
    if not found:
        raise FileNotFoundError(f"{folder} has no {SHARD.format(0)}: give a checkpoint's folder.")
    for rank in range(max(found) + 1):
        if rank not in found:
            raise FileNotFoundError(
                f"{folder / SHARD.format(rank)} is missing: of {max(found) + 1} shards there are "
                f"{len(found)}. Copy it too."
            )
    return [found[rank] for rank in sorted(found)]


def _folder(source: Path, tag: str | None) -> Path:
    if tag is None and source.is_dir() and any(_FILE.fullmatch(f.name) for f in source.iterdir()):
        return source
    tracker = next((source / name for name in TRACKERS if (source / name).is_file()), None)
    if tag is None and tracker is not None:
        tag = tracker.read_text(encoding="utf-8").strip()
    if tag is None:
        raise FileNotFoundError(
            f"{source} is no checkpoint of the original GLM: it has neither {TRACKERS[0]} nor "
            f"{SHARD.format(0)}."
        )
    if not (source / tag).is_dir():
        raise FileNotFoundError(f"{source} has no folder {tag!r}, the tag asked for.")
    return source / tag


class _Shard:
    """One file, its weights by their plain names."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, Mapped(path)
        state = self.file.state
        module = state.get(MODULE) if isinstance(state, dict) else None
        if not isinstance(module, Mapping) or not module:
            raise ValueError(f"{path} has no weights under {MODULE!r}: no file of a GLM.")
        tensors = {str(n): t for n, t in module.items() if isinstance(t, Tensor)}
        self.names = {_plain(name): name for name in tensors}
        if len(self.names) < len(tensors):
            twice = next(name for name in tensors if self.names[_plain(name)] != name)
            raise ValueError(f"{path} has {_plain(twice)!r} twice, once as {twice!r}.")
        self.metas = {_plain(n): meta(t.shape, t.dtype) for n, t in tensors.items()}
        self.odd = [str(n) for n, t in module.items() if not isinstance(t, Tensor)]
        self.rest = {str(name): value for name, value in state.items() if name != MODULE}

    def tensor(self, name: str) -> Tensor:
        found: Tensor = self.file.state[MODULE][self.names[name]]
        self.file.used(found.nbytes)
        return found


def _plain(name: str) -> str:
    return _WRAPPERS.sub("", name, count=1) if _WRAPPERS.match(name) else name


def read_original(
    source: Path,
    tag: str | None = None,
    drop: Sequence[str] = (),
    replicas: str = "equal",
) -> Weights:
    """A checkpoint of the original GLM.

    Args:
        source, tag: see :func:`find_shards`.
        drop: patterns (``student.*``) of entries to leave out.
        replicas: ``equal`` refuses shards that differ in what all should have alike, ``first``
            takes it from the first.

    Raises:
        FileNotFoundError, CheckpointDamaged: a file is missing or cannot be read, by name.
        ValueError: entries that no GLM has, or shards of different models, by name.
    """
    shards = [_Shard(path) for path in find_shards(source, tag)]
    first = shards[0].rest
    metas, extras, dropped = _accounted(shards, drop)
    _check_number(shards, metas)
    paras = (first.get(NONPARAMETERS) or {}).get(MAP)
    return Weights(
        origin=f"original GLM, {len(shards)} model-parallel shard(s) in {shards[0].path.parent}",
        metas=metas,
        read=lambda name: _merged(name, shards, replicas),
        model=_from_args(first.get("args")),
        tables=from_original(paras) if paras else None,
        original_tables=paras or {},
        extras=extras,
        not_weights=tuple(name for name in first if name in KNOWN and name != NONPARAMETERS),
        dropped=dropped,
        iteration=_number(first.get("iteration")),
    )


def _accounted(
    shards: Sequence[_Shard], drop: Sequence[str]
) -> tuple[Metas, Metas, tuple[str, ...]]:
    """Weights, what methods have besides, and names that are left out: every entry is in one."""
    first, names = shards[0], _same_everywhere(shards)
    beside = first.rest.get(NONPARAMETERS) or {}
    extras = {name: shape for name, shape in names.items() if name.startswith(EXTRA)}
    metas = {n: shape for n, shape in names.items() if n not in extras and _is_known(n)}
    unknown = [n for n in (*first.rest, *first.odd) if n not in KNOWN]
    unknown += [f"{NONPARAMETERS}.{name}" for name in beside if name != MAP]
    unknown += [name for name in names if name not in extras and name not in metas]
    dropped = [n for n in (*unknown, *extras) if any(fnmatch.fnmatch(n, p) for p in drop)]
    if unknown := [name for name in unknown if name not in dropped]:
        raise ValueError(
            f"{first.path} has {len(unknown)} entries that no GLM has: {', '.join(unknown[:8])}. "
            f"Name them in drop=[{unknown[0]}] to leave them out."
        )
    return metas, {n: t for n, t in extras.items() if n not in dropped}, tuple(dropped)


def _is_known(name: str) -> bool:
    try:
        our_name(name)
    except ValueError:
        return False
    return True


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int) else None


def _same_everywhere(shards: Sequence[_Shard]) -> Metas:
    """Whole shapes by name; all shards have the same names and shapes."""
    first = shards[0]
    for other in shards[1:]:
        if odd := sorted(first.metas.keys() ^ other.metas.keys()):
            has = "lacks" if odd[0] in first.metas else "has, unlike its neighbours,"
            raise ValueError(
                f"{other.path} is a shard of another model than {first.path.name}: it {has} "
                f"{odd[0]} ({len(odd)} such). Put the shards of one checkpoint together."
            )
        for name, tensor in first.metas.items():
            there = other.metas[name]
            if (there.shape, there.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(
                    f"{other.path} is a shard of another model than {first.path.name}: {name} is "
                    f"{tuple(there.shape)} {there.dtype} there and {tuple(tensor.shape)} "
                    f"{tensor.dtype} here. Put the shards of one checkpoint together."
                )
    size = len(shards)
    shapes = {n: (whole_shape(n, t.shape, size), t.dtype) for n, t in first.metas.items()}
    return {name: meta(*shape) for name, shape in shapes.items()}


def _check_number(shards: Sequence[_Shard], metas: Metas) -> None:
    """That no shard at the end is missing: the attention's output projection is a square."""
    here, folder = len(shards), shards[0].path.parent
    for name, whole in metas.items():
        if name.endswith("attention.dense.weight") and whole.shape[0] != whole.shape[1]:
            needed = whole.shape[0] * here // whole.shape[1]
            if needed > here:
                raise FileNotFoundError(
                    f"{folder / SHARD.format(here)} is missing: {name} tells of {needed} shards, "
                    f"of which there are {here}. Copy all of them."
                )
            raise ValueError(f"{folder}: {name} of {needed} shards, but there are {here}.")


def _merged(name: str, shards: Sequence[_Shard], replicas: str) -> Tensor:
    parts = [shard.tensor(name) for shard in shards]
    if kind_of(name) == "whole" and replicas == "equal":
        for shard, part in zip(shards[1:], parts[1:], strict=True):
            if not torch.equal(part, parts[0]):
                raise ValueError(
                    f"{shard.path}: {name} differs from the one of {shards[0].path.name}, though "
                    "all ranks share it: a shard of another model. If it drifted in training, "
                    "replicas=first takes the first one's."
                )
    return merge(name, parts)


def _from_args(args: Any) -> dict[str, Any]:
    """Sizes that saved options tell and tensors do not."""
    keys = {
        "num_attention_heads": "num_attention_heads",
        "num_layers": "num_layers",
        "attention_scale": "attention_scale",
    }
    values = vars(args) if hasattr(args, "__dict__") else {}
    return {ours: values[name] for name, ours in keys.items() if values.get(name) is not None}
