"""Where each weight of a GLM lies in a sharded checkpoint: the model itself tells, without data.

The model is built on the meta device in one process; Megatron-Core's own ``sharded_state_dict``
names every tensor.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor

from glmkd_nemo.checkpoint.original_glm import original_name, whole_model_name
from glmkd_nemo.checkpoint.streaming import Objects, Places
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.heads import HeadConfig
from glmkd_nemo.plan.simulated import OnMeta

PREFIX, MAP = "model.", "vocab_map."


def model_on_meta(model: Mapping[str, Any], vocab_size: int) -> GLMModel:
    """A GLM in one process without data.

    Args:
        model: the section ``model``.
        vocab_size: of the tokenizer.

    Raises:
        ValueError: impossible sizes.
    """
    from glmkd_nemo.engine.strategy import join_alone

    join_alone()
    plain = {**model, "transformer_engine": False, "fp8": False}
    config = glm_config_from_cfg(plain, vocab_size, parallel={})
    config.use_cpu_initialization, config.perform_initialization = True, False
    head = model.get("head")
    with OnMeta():
        return GLMModel(config, head=HeadConfig(**head) if head else None)


def places(model: GLMModel) -> Places:
    """Each tensor of a model by original name; those of a vocabulary map as ``vocab_map.*``."""
    found = {}
    for name, place in model.sharded_state_dict(prefix=PREFIX).items():
        if not isinstance(place, ShardedTensor):
            continue  # Transformer Engine's state of fp8
        ours = name.removeprefix(PREFIX)
        mapped = ours.startswith(MAP)
        found[ours if mapped else original_name(whole_model_name(model, ours))] = place
    return found


def objects(model: GLMModel) -> Objects:
    """What Megatron-Core's loader wants besides tensors: empty states of Transformer Engine."""
    found = {}
    for item in model.sharded_state_dict(prefix=PREFIX).values():
        if isinstance(item, ShardedObject):
            found[item.unique_key] = io.BytesIO()
            torch.save([item.data], found[item.unique_key])
    return found


def with_file_types(
    wanted: Places, types: Mapping[str, tuple[torch.Size, torch.dtype]]
) -> Iterator[tuple[str, ShardedTensor]]:
    """Places with the dtypes, and the rows of the vocabulary, that a file has."""
    for name, place in wanted.items():
        shape, dtype = types[place.key]
        yield name, as_stored(place, dtype, shape if place.allow_shape_mismatch else None)


def as_stored(
    place: ShardedTensor, dtype: torch.dtype, shape: torch.Size | None = None
) -> ShardedTensor:
    """A place with the dtype of a file, and its shape where that may differ from the model's."""
    local = tuple(place.local_shape if shape is None else shape)
    sizes = {} if shape is None else {"local_shape": local, "global_shape": local}
    data = torch.empty(local, dtype=dtype, device="meta")
    return dataclasses.replace(place, dtype=dtype, data=data, **sizes)
