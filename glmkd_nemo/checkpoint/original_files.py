"""Checkpoints of the original GLM, read: saved by DeepSpeed or plainly, at any model-parallel size.

Every entry of every shard is accounted for by name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from glmkd_nemo.checkpoint.original_checks import (
    check_copies,
    check_number,
    check_rest,
    equal,
    stranger,
)
from glmkd_nemo.checkpoint.original_glm import our_name
from glmkd_nemo.checkpoint.original_shards import MAP, NONPARAMETERS, Shard, find_shards, tag_of
from glmkd_nemo.checkpoint.partition import is_replicated, kind_of, merge, whole_shape
from glmkd_nemo.checkpoint.whole import EXTRA, Metas, Weights, meta
from glmkd_nemo.models.vocab_map import from_original

KNOWN = {  # entries of a file beside its weights, of plain saves and of DeepSpeed's
    *("iteration", "total_iters", "optimizer", "lr_scheduler", "client_lr_scheduler", "args"),
    *("random_rng_state", "np_rng_state", "torch_rng_state", "cuda_rng_state"),
    *("rng_tracker_states", NONPARAMETERS, "csr_tensor_module_names", "buffer_names"),
    *("sparse_tensor_module_names", "param_shapes", "frozen_param_shapes", "shared_params"),
    *("frozen_param_fragments", "skipped_steps", "global_steps", "global_samples"),
    *("dp_world_size", "mp_world_size", "ds_config", "ds_version", "data_sampler"),
    *("random_ltd", "zero_optimizer_state"),
}
_PLAIN = (bool, int, float, str, type(None))


def read_original(
    source: Path,
    tag: str | None = None,
    drop: Sequence[str] = (),
    replicas: str = "equal",
) -> Weights:
    """A checkpoint of the original GLM.

    Args:
        source, tag: see :func:`~.original_shards.find_shards`.
        drop: patterns (``student.*``) of methods' parameters, and of entries that no GLM has, to
            leave out.
        replicas: ``equal`` refuses shards that differ in what all should have alike, ``first``
            takes it from the first.

    Raises:
        FileNotFoundError, CheckpointDamaged, CheckpointRefused: a file is missing or cannot be
            read, by name.
        ValueError: entries that no GLM has, or shards of different models, by name.
    """
    shards = [Shard(path) for path in find_shards(source, tag)]
    first = shards[0].rest
    args = _plain_args(first.get("args"))
    fit = bool(args.get("tinybert_fit_parallel"))
    metas, extras, dropped = _accounted(shards, drop, fit)
    check_number(shards, metas)
    paras = check_rest(shards)
    check_copies(shards, metas)
    return Weights(
        origin=f"original GLM, {len(shards)} model-parallel shard(s) in {shards[0].path.parent}",
        metas=metas,
        read=lambda name: _merged(name, shards, replicas, fit),
        model=_from_args(args, shards[0].path, mapped=bool(paras)),
        tables=from_original(dict(paras)) if paras else None,
        original_tables=paras,
        extras=extras,
        not_weights=tuple(name for name in first if name in KNOWN and name != NONPARAMETERS),
        dropped=dropped,
        iteration=_number(first.get("iteration")),
        tag=tag_of(shards[0].path),
        args=args,
    )


def _accounted(
    shards: Sequence[Shard], drop: Sequence[str], fit: bool
) -> tuple[Metas, Metas, tuple[str, ...]]:
    """Weights, what methods have besides, and names that are left out: every entry is in one."""
    names = _same_everywhere(shards, fit)
    extras = {name: shape for name, shape in names.items() if name.startswith(EXTRA)}
    metas = {n: shape for n, shape in names.items() if n not in extras and _is_known(n)}
    strange = [name for name in names if name not in extras and name not in metas]
    dropped = [n for n in extras if _matches(n, drop)]
    for shard in shards:
        unknown = [n for n in (*shard.rest, *shard.odd) if n not in KNOWN]
        unknown += [f"{NONPARAMETERS}.{name}" for name in shard.nonparameters if name != MAP]
        unknown += strange
        dropped += [name for name in unknown if _matches(name, drop)]
        if unknown := [name for name in unknown if name not in dropped]:
            raise ValueError(
                f"{shard.path} has {len(unknown)} entries that no GLM has: "
                f"{', '.join(unknown[:8])}. Name them in drop=[{unknown[0]}] to leave them out."
            )
    for pattern in drop:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in dropped):
            raise ValueError(
                f"drop=[{pattern}] is the name of nothing that can be left out: methods' "
                f"parameters ({EXTRA}*) and entries that no GLM has can."
            )
    kept = {n: t for n, t in extras.items() if n not in dropped}
    return metas, kept, tuple(dict.fromkeys(dropped))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_known(name: str) -> bool:
    try:
        our_name(name)
    except ValueError:
        return False
    return True


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int) else None


def _same_everywhere(shards: Sequence[Shard], fit: bool) -> Metas:
    """Whole shapes by name; all shards have the same names and shapes."""
    first = shards[0]
    for other in shards[1:]:
        if odd := sorted(first.metas.keys() ^ other.metas.keys()):
            has = "lacks" if odd[0] in first.metas else "has, unlike its neighbours,"
            raise stranger(other, first, f"it {has} {odd[0]} ({len(odd)} such)")
        for name, tensor in first.metas.items():
            there = other.metas[name]
            if (there.shape, there.dtype) != (tensor.shape, tensor.dtype):
                what = f"{name} is {tuple(there.shape)} {there.dtype} there and "
                raise stranger(other, first, f"{what}{tuple(tensor.shape)} {tensor.dtype} here")
    size = len(shards)
    shapes = {n: (whole_shape(n, t.shape, size, fit), t.dtype) for n, t in first.metas.items()}
    return {name: meta(*shape) for name, shape in shapes.items()}


def _merged(name: str, shards: Sequence[Shard], replicas: str, fit: bool) -> Tensor:
    parts = [shard.tensor(name) for shard in shards]
    known = is_replicated(name)
    if kind_of(name, fit) == "whole" and not (known and replicas == "first"):
        for shard, part in zip(shards[1:], parts[1:], strict=True):
            if not equal(part, parts[0]):
                remedy = (
                    "a shard of another model. If it drifted in training, replicas=first takes "
                    "the first one's"
                    if known
                    else f"how it is divided is not known: leave it out by drop=[{name}]"
                )
                raise ValueError(
                    f"{shard.path}: {name} differs from the one of {shards[0].path.name}, though "
                    f"all ranks should share it: {remedy}."
                )
    return merge(name, parts, fit)


def _plain_args(args: Any) -> dict[str, Any]:
    """Saved options that are plain values."""
    values = vars(args) if hasattr(args, "__dict__") else {}
    return {str(n): v for n, v in values.items() if isinstance(v, _PLAIN)}


def _from_args(args: Mapping[str, Any], path: Path, mapped: bool) -> dict[str, Any]:
    """Sizes that saved options tell and tensors do not."""
    found: dict[str, Any] = {}
    for name in ("num_attention_heads", "num_layers", "attention_scale"):
        value = args.get(name)
        if value is None:
            continue
        if isinstance(value, str | bool) or not value > 0:
            raise ValueError(f"{path}: its saved args have {name}={value!r}, which is no size.")
        found[name] = value
    if mapped and isinstance(args.get("unmap_vocab_output"), bool):
        found["vocab_map"] = {"unmap_output": args["unmap_vocab_output"]}
    return found
