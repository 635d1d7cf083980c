"""Sharded weights into a model at any layout; whatever does not arrive is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedTensor

from glmkd_nemo.checkpoint.sharded import check_whole

SHOWN = 8  # names per kind in a message
# a student's companions in training, never part of a model's weights
BESIDE = ("distill.", "live_teachers.")


class WeightsMismatch(ValueError):
    """Weights of a checkpoint and of a model are not the same set."""


def load_sharded(
    model: Any,
    path: str | Path,
    strict: bool = True,
    prefix: str = "model.",
    label: str = "",
    may_be_new: tuple[str, ...] = (),
) -> None:
    """Loads a sharded checkpoint directory into a model at the model's own layout.

    Args:
        model: a :class:`~glmkd_nemo.models.glm.GLMModel` (or anything with mcore's
            ``sharded_state_dict``); all ranks call this with their stage.
        path: directory of the weights.
        strict: refuse weights that are missing, unexpected or of another shape; otherwise load
            what fits.
        prefix: of the checkpoint's keys.
        label: how messages call the checkpoint (default: its path).
        may_be_new: parts of the model that keep their initial weights where the checkpoint has
            nothing of them.

    Raises:
        FileNotFoundError: there is no checkpoint.
        CheckpointDamaged: files are missing or truncated.
        WeightsMismatch: names each weight that does not fit.
    """
    folder = Path(path)
    check_whole(folder)
    weights = model.sharded_state_dict(prefix=prefix)
    beside = tuple(f"{prefix}{name}" for name in BESIDE)
    new = tuple(f"{prefix}{name}" for name in _absent(folder, prefix, may_be_new))
    weights = {k: v for k, v in weights.items() if not k.startswith((*beside, *new))}
    rows = getattr(getattr(model, "config", None), "word_rows", None)
    if strict:
        compare_weights(weights, folder, label or str(path), vocab_size=rows)
    else:
        weights = _that_fit(weights, folder, rows)
    state = dist_checkpointing.load(weights, str(folder))
    state = {key.removeprefix(prefix): state[key] for key in weights}
    left = model.load_state_dict(state, strict=False)
    unasked = (*BESIDE, *(name.removeprefix(prefix) for name in new))
    lost = [k for k in left.missing_keys if not k.startswith(unasked) and "_extra_state" not in k]
    if strict and (lost or left.unexpected_keys):
        names = _listed("not delivered", {*lost, *left.unexpected_keys})
        raise WeightsMismatch(f"{label or path} does not fit this model: {names}.")


def _absent(folder: Path, prefix: str, parts: tuple[str, ...]) -> list[str]:
    """Those parts of which a checkpoint has no tensor."""
    if not parts:
        return []
    have = dist_checkpointing.load_tensors_metadata(str(folder))
    return [part for part in parts if not any(key.startswith(f"{prefix}{part}") for key in have)]


def compare_weights(
    weights: dict[str, Any],
    folder: Path,
    label: str,
    also_there: tuple[str, ...] = (),
    vocab_size: int | None = None,
) -> None:
    """Compares a model's sharded state dict with a checkpoint's tensors; all ranks call it.

    Args:
        weights: this rank's sharded state dict.
        folder: the checkpoint directory.
        label: how messages call it.
        also_there: prefixes of tensors that are no weights (optimizer state).
        vocab_size: real vocabulary; tables padded for another TP may have more rows than needed.

    Raises:
        WeightsMismatch: on all ranks alike.
    """
    stored = dist_checkpointing.load_tensors_metadata(str(folder))
    have = {key: tuple(tensor.global_shape) for key, tensor in stored.items()}
    missing, shapes, mine = [], [], set()
    for tensor in _tensors(weights):
        mine.add(tensor.key)
        if tensor.key not in have:
            missing.append(tensor.key)
        elif not _same_shape(tensor, have[tensor.key], vocab_size):
            wanted = tuple(tensor.global_shape)
            shapes.append(f"{tensor.key}: {have[tensor.key]} there, {wanted} here")
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, (missing, shapes, mine))
    everyone = set().union(*(row[2] for row in gathered))
    unexpected = [k for k in have if k not in everyone and not k.startswith(also_there or ("\0",))]
    problems = [
        _listed("missing", {name for row in gathered for name in row[0]}),
        _listed("unexpected", set(unexpected)),
        _listed("of another shape", {name for row in gathered for name in row[1]}),
    ]
    if any(problems):
        text = "; ".join(problem for problem in problems if problem)
        raise WeightsMismatch(
            f"{label} does not fit this model: {text}. Check num_layers, hidden_size, "
            "num_attention_heads, max_position_embeddings and the tokenizer against the ones it "
            "was saved with."
        )


def _that_fit(weights: dict[str, Any], folder: Path, rows: int | None) -> dict[str, Any]:
    have = dist_checkpointing.load_tensors_metadata(str(folder))
    return {
        name: tensor
        for name, tensor in weights.items()
        if isinstance(tensor, ShardedTensor)
        and tensor.key in have
        and _same_shape(tensor, tuple(have[tensor.key].global_shape), rows)
    }


def _tensors(state: dict[str, Any]) -> Iterator[ShardedTensor]:
    for value in state.values():
        if isinstance(value, ShardedTensor):
            yield value
        elif isinstance(value, dict):
            yield from _tensors(value)


def _same_shape(tensor: ShardedTensor, there: tuple[int, ...], vocab_size: int | None) -> bool:
    here = tuple(tensor.global_shape)
    if here == there or not tensor.allow_shape_mismatch:
        return here == there
    enough = vocab_size is None or there[0] >= vocab_size
    return here[1:] == there[1:] and enough


def _listed(kind: str, names: set[str]) -> str:
    if not names:
        return ""
    shown = sorted(names)[:SHOWN]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} weights {kind} ({', '.join(shown)}{more})"
