"""From the section ``model.vocab_map`` to a filled :class:`VocabMap`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.data.sort_vocab import read_order
from glmkd_nemo.distill.hint import did_you_mean
from glmkd_nemo.distill.parallel import whole_rows
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.vocab_map import (
    REPLACEMENTS,
    Tables,
    build_tables,
    by_similarity,
    by_token,
)


def teacher_of_map(section: Mapping[str, Any] | None, teachers: list[str]) -> str | None:
    """Name of the teacher whose word embeddings tell which kept token is nearest, if any.

    Args:
        section: ``model.vocab_map``.
        teachers: names of the teachers there are.

    Raises:
        ValueError: keys that do not go together.
    """
    if not section or section.get("table") is None:  # the map comes with a checkpoint
        return None
    replace, named = section.get("replace") or "unk", section.get("teacher")
    if replace not in REPLACEMENTS:
        hint = did_you_mean(replace, REPLACEMENTS)
        known = ", ".join(REPLACEMENTS)
        raise ValueError(f"model.vocab_map.replace={replace!r} is unknown ({known}).{hint}")
    if replace == "unk":
        if named is not None:
            raise ValueError(
                f"model.vocab_map.teacher={named} has no effect with replace=unk: choose decoder, "
                "cosine or euclidean, or leave the teacher out."
            )
        return None
    if named is None and len(teachers) == 1:
        return teachers[0]
    if named not in teachers:
        there_are = ", ".join(teachers) or "none: set model.teachers.t0.restore_from_path=x.nemo"
        raise ValueError(
            f"model.vocab_map.replace={replace} needs the word embeddings of a teacher "
            f"(model.vocab_map.teacher={named}); there are {there_are}."
        )
    return str(named)


def kept_section(section: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What of ``model.vocab_map`` a trained model needs: its tables come with its weights."""
    if not section:
        return None
    return {"size": section.get("size"), "unmap_output": bool(section.get("unmap_output"))}


def fill_vocab_map(
    model: GLMModel,
    section: Mapping[str, Any] | None,
    tokenizer: Any,
    teachers: Mapping[str, GLMModel],
) -> None:
    """Builds the map of a new model; all ranks call it, with their stages.

    Without a table (or where its file is gone), the map is left to be loaded with the weights; a
    model that runs without any refuses to.

    Args:
        model: the student.
        section: ``model.vocab_map``.
        tokenizer: its ``token(id)``, ``unk_id`` and ``commands`` are asked for.
        teachers: this rank's stages, by name.

    Raises:
        ValueError: keys that do not go together, a table of another vocabulary, or one that would
            remove a command token.
    """
    name = teacher_of_map(section, list(teachers))
    size, vocab_size = model.config.mapped_vocab_size, model.config.vocab_size
    if not section or size is None or section.get("table") is None:
        return
    if not Path(section["table"]).is_file():
        return
    order = read_order(section["table"], tokenizer)
    _refuse_lost_commands(order[size:], size, tokenizer)
    device = torch.device("cuda", torch.cuda.current_device()) if _on_gpu() else "cpu"
    if name is None:
        tables = build_tables(order, size, vocab_size, by_token(tokenizer.unk_id))
    else:
        tables = Tables(torch.empty(size).long(), torch.empty(vocab_size).long())
        if parallel_state.is_pipeline_first_stage(ignore_virtual=True):
            similar = by_similarity(token_vectors(teachers[name]), str(section["replace"]))
            tables = build_tables(order, size, vocab_size, similar)
    tables = Tables(*(_of_first_stage(table.to(device)) for table in tables))
    if model.vocab_map is not None:
        model.vocab_map.fill(tables)


@torch.no_grad()
def token_vectors(model: GLMModel) -> Tensor:
    """``[V, h]`` in fp32: a model's word embeddings, of the whole vocabulary on every TP rank.

    Tokens that the model itself replaces have the row of their stand-in. On the first stage only.
    """
    rows = whole_rows(model.embedding.word_embeddings.weight)[: model.config.word_rows].float()
    return rows if model.vocab_map is None else rows[model.vocab_map.row_of_id]


def _refuse_lost_commands(removed: list[int], size: int, tokenizer: Any) -> None:
    lost = sorted(
        {t.text for t in tokenizer.commands.values()} & {tokenizer.token(i) for i in removed}
    )
    if lost:
        raise ValueError(
            f"model.vocab_map.size keeps {size} tokens and would remove {', '.join(lost)}, which "
            "the model needs: raise it, or make model.vocab_map.table anew with "
            "scripts/sort_vocab.py, which puts them first."
        )


def _of_first_stage(x: Tensor) -> Tensor:
    torch.distributed.broadcast(
        x,
        src=parallel_state.get_pipeline_model_parallel_first_rank(),
        group=parallel_state.get_pipeline_model_parallel_group(),
    )
    return x


def _on_gpu() -> bool:
    return torch.cuda.is_available()
