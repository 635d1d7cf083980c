"""A student that starts as a piece cut out of a teacher: first layers, heads, rows and columns.

Of each weight the student takes the leading slice, and keeps its own values where it is larger than
the teacher. Queries, keys and values are cut head by head, and the columns of the attention's
output projection with them. (The original trims the fused block of all three at once, which makes
keys of queries; see "Done right instead" in the README of the recorded cases.) Of a vocabulary
map, the rows of the kept tokens are taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.checkpoint.archive import TOKENIZER, WEIGHTS, extracted, read_nemo_config
from glmkd_nemo.checkpoint.original_glm import (
    WORD_EMBEDDINGS,
    plain_name,
    shard_of,
    whole_model_name,
)
from glmkd_nemo.checkpoint.weights import load_sharded
from glmkd_nemo.data.tokenizer import load_tokenizer
from glmkd_nemo.distill.gather import whole_tensor
from glmkd_nemo.models.config import GLMConfig, even_split
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel

KEY = "model.student_init"
_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


def cut(name: str, own: Tensor, theirs: Tensor, own_heads: int, their_heads: int) -> Tensor:
    """A student's weight with the leading slice of a teacher's in it.

    Args:
        name: our name of the weight.
        own: the student's, whole; any shape.
        theirs: the teacher's, whole; any sizes.
        own_heads, their_heads: attention heads.

    Returns:
        Of the student's shape.
    """
    result = _by_head(name, own, own_heads).clone()
    source = _by_head(name, theirs, their_heads)
    both = tuple(slice(min(a, b)) for a, b in zip(result.shape, source.shape, strict=True))
    result[both] = source[both].to(result)
    return result.reshape(own.shape)


def _by_head(name: str, x: Tensor, heads: int) -> Tensor:
    """``[heads, 3, d, ..]`` of the fused projection, ``[h, heads, d]`` of the output projection."""
    if ".linear_qkv." in name:
        return x.unflatten(0, (heads, 3, -1))
    return x.unflatten(1, (heads, -1)) if name.endswith("linear_proj.weight") else x


@torch.no_grad()
def start_from(
    student: GLMModel,
    teacher: GLMConfig,
    weights: Iterable[tuple[str, Tensor]],
    layers: Sequence[int] | None = None,
    row_of_id: Tensor | None = None,
) -> None:
    """Cuts a student out of a teacher; every rank calls it with its stage and shard.

    Args:
        student: as it was initialised.
        teacher: sizes of the teacher.
        weights: the teacher's, whole, by our names, in one order on all ranks.
        layers: the teacher's layer for each of the student's; default: the first ones.
        row_of_id: of the teacher's vocabulary map, if it has one.

    Raises:
        ValueError: ``layers`` that do not fit the two models.
    """
    chosen = _check_layers(layers, student.config.num_layers, teacher)
    mine = {plain_name(whole_model_name(student, n)): p for n, p in student.named_parameters()}
    heads = student.config.num_attention_heads, teacher.num_attention_heads
    for name, theirs in weights:
        for target in _targets(name, chosen, teacher.share_layers):
            parameter = mine.get(target)
            if parameter is None:
                continue
            if target == WORD_EMBEDDINGS:
                theirs = theirs[_rows(student, row_of_id).to(theirs.device)]
            value = cut(target, whole_tensor(parameter.detach(), parameter), theirs, *heads)
            parameter.copy_(shard_of(value, parameter, target))


def _check_layers(layers: Sequence[int] | None, depth: int, teacher: GLMConfig) -> list[int]:
    if layers is None:
        return list(range(min(depth, teacher.num_layers)))
    if len(layers) != depth or not all(0 <= i < teacher.num_layers for i in layers):
        raise ValueError(
            f"{KEY}.layers={list(layers)}: give {depth} numbers, the teacher's layer for each of "
            f"the student's, from 0 to {teacher.num_layers - 1}; or null for the first ones."
        )
    return list(layers)


def _targets(name: str, chosen: list[int], one_set: bool) -> list[str]:
    """The student's weights that a teacher's weight goes to."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return [name]
    takers = (i for i, j in enumerate(chosen) if one_set or j == int(match[1]))
    return [f"decoder.layers.{i}.{match[2]}" for i in takers]


def _rows(student: GLMModel, row_of_id: Tensor | None) -> Tensor:
    """The teacher's row for each row of the student's word embedding."""
    if student.vocab_map is not None:
        ids = student.vocab_map.kept_ids
    else:
        ids = torch.arange(student.config.vocab_size)
    return ids if row_of_id is None else row_of_id[ids.to(row_of_id.device)]


@torch.no_grad()
def whole_weights(model: GLMModel) -> Iterator[tuple[str, Tensor]]:
    """Each weight of a model once, whole, on every rank; one at a time, to spare memory."""
    group = parallel_state.get_pipeline_model_parallel_group()
    here = parallel_state.get_pipeline_model_parallel_rank()
    mine = [(plain_name(whole_model_name(model, n)), p) for n, p in model.named_parameters()]
    seen: set[str] = set()
    for stage, source in enumerate(dist.get_process_group_ranks(group)):
        box: list[Any] = [[name for name, _ in mine]]
        dist.broadcast_object_list(box, src=source, group=group)
        for position, name in enumerate(box[0]):
            if name in seen:  # the tied head, or a copy of shared weights
                continue
            seen.add(name)
            value = None
            if stage == here:
                parameter = mine[position][1]
                shard = parameter.detach().to(torch.cuda.current_device())  # it may be offloaded
                value = whole_tensor(shard, parameter).contiguous()
            yield name, _from(source, value, group)


def _from(source: int, value: Tensor | None, group: Any) -> Tensor:
    """The tensor of one rank on all ranks of a group."""
    box: list[Any] = [None if value is None else (value.shape, value.dtype)]
    dist.broadcast_object_list(box, src=source, group=group)
    shape, dtype = box[0]
    device = torch.cuda.current_device()
    value = torch.empty(shape, dtype=dtype, device=device) if value is None else value.to(device)
    dist.broadcast(value, src=source, group=group)
    return value


def initialise(
    student: GLMModel,
    cfg: Mapping[str, Any],
    teachers: Mapping[str, GLMModel],
    tokenizer: Any,
) -> None:
    """Applies ``model.student_init``, if it is set, to a student that has just been built.

    Args:
        student: this rank's stage.
        cfg: the section ``model``.
        teachers: stages of the hosted teachers.
        tokenizer: the student's.

    Raises:
        ValueError: what ``teacher`` names is neither a teacher nor an archive, or is of another
            vocabulary.
    """
    init = cfg.get("student_init") or {}
    name = init.get("teacher")
    if not name:
        return
    if name not in teachers and not Path(name).expanduser().exists():
        known = f" ({', '.join(teachers)})" if teachers else ""
        raise ValueError(
            f"{KEY}.teacher={name}: give one of model.teachers{known}, or the path of a .nemo."
        )
    source = teachers.get(name)
    if source is None or _is_rounded(source.config, student.config):
        path = name if source is None else cfg["teachers"][name]["restore_from_path"]
        source = _restored(path, cfg, student.config, tokenizer)
    table = None if source.vocab_map is None else source.vocab_map.row_of_id
    start_from(student, source.config, whole_weights(source), init.get("layers"), table)


def _is_rounded(teacher: GLMConfig, student: GLMConfig) -> bool:
    """Whether a hosted teacher has a lower precision than the student whose weights it gives."""
    both = torch.promote_types(teacher.params_dtype, student.params_dtype)
    return both is not teacher.params_dtype


def _restored(
    path: str, parallel: Mapping[str, Any], student: GLMConfig, tokenizer: Any
) -> GLMModel:
    """The model of an archive at the student's layout."""
    cfg = read_nemo_config(path)
    cfg.fp8 = False
    stages = len(student.split)
    depth = cfg.num_layers
    split = even_split(depth, stages) if depth >= stages else [depth] + [0] * (stages - 1)
    with extracted(path) as folder:
        if load_tokenizer(folder / TOKENIZER).fingerprint() != tokenizer.fingerprint():
            raise ValueError(
                f"{KEY}.teacher={path} has another vocabulary than the student: set "
                "model.tokenizer to the teacher's, command tokens included."
            )
        model = GLMModel(
            glm_config_from_cfg(cfg, student.vocab_size, parallel=parallel, split=split),
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=True),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=True),
        )
        load_sharded(model, folder / WEIGHTS, label=path)
    return model.to(device=torch.cuda.current_device())
