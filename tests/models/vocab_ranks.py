"""What tests/models/test_vocab_map.py runs on two ranks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.checkpoint.sharded import save_directory
from glmkd_nemo.checkpoint.weights import load_sharded
from glmkd_nemo.models.build_vocab_map import fill_vocab_map, token_vectors
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.vocab_map import Tables, build_tables, by_similarity
from tests.distill.ranks import layout
from tests.models import tiny
from tests.models.vocab_cases import NAMES, check, tables
from tests.models.words import Words, write

SECTION = {"size": 3, "replace": "decoder", "teacher": "t0"}


def everything() -> dict[str, list[str]]:
    """By check, what is wrong with it on any rank."""
    found: dict[str, list[str]] = {}
    with layout(tp=2):
        for name in NAMES:
            rows = check(name, False, 12, _gather) + check(name, True, 14, _gather)
            found[f"{name}"] = _of_all(rows)
    with tempfile.TemporaryDirectory() as here:
        box = [here]
        dist.broadcast_object_list(box, src=0)
        found["filling"] = _of_all(filling(Path(box[0])))
        found["checkpoint"] = _of_all(checkpoint(Path(box[0])))
        dist.barrier()
    return found


def _gather(x: Tensor) -> Tensor:
    shards = [torch.empty_like(x) for _ in range(2)]
    dist.all_gather(shards, x.contiguous())
    return torch.cat(shards)


def _of_all(rows: list[str]) -> list[str]:
    box: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(box, rows)
    return [f"rank {rank}: {row}" for rank, found in enumerate(box) for row in found]


def _model(vocab: int, tp: int = 1, pp: int = 1, **changes: Any) -> GLMModel:
    parallel = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp}
    section = {**tiny.SECTION, "num_layers": 2, "make_vocab_size_divisible_by": 4, **changes}
    tiny.reseed()
    return GLMModel(
        glm_config_from_cfg(section, vocab, parallel=parallel),
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )


def filling(folder: Path) -> list[str]:
    """A teacher's embeddings choose the same stand-ins in every layout."""
    order = [1, 0, 4, 2, 3, 5]
    table = str(folder / "table.tsv")
    if dist.get_rank() == 0:
        write(Path(table), order)
    dist.barrier()
    section, wrong = {**SECTION, "table": table}, []
    g = torch.Generator().manual_seed(9)
    vectors = torch.randn(6, tiny.SECTION["hidden_size"], generator=g)
    expected = build_tables(order, 3, 6, by_similarity(vectors, "decoder"))
    for tp, pp in ((2, 1), (1, 2)):
        with layout(tp, pp):
            student = _model(6, tp, pp, vocab_map=section)
            teacher = _model(6, tp, pp)
            if teacher.pre_process:
                weight = teacher.embedding.word_embeddings.weight
                padded = torch.cat([vectors, vectors.new_zeros(2, vectors.shape[1])])
                weight.data.copy_(padded.chunk(tp)[parallel_state.get_tensor_model_parallel_rank()])
                if not torch.equal(token_vectors(teacher), vectors):
                    wrong.append(f"tp {tp} pp {pp}: token_vectors")
            fill_vocab_map(student, section, Words(), {"t0": teacher})
            wrong += _differ(f"tp {tp} pp {pp}", student, expected)
    return wrong


def checkpoint(folder: Path) -> list[str]:
    """Tables saved under tensor parallelism arrive on both pipeline stages, and the reverse."""
    wrong, expected = [], tables(21, 13)
    section = {"size": 13}
    layouts = {"tp2": (2, 1), "pp2": (1, 2)}
    for name, (tp, pp) in layouts.items():
        with layout(tp, pp):
            model = _model(21, tp, pp, vocab_map=section)
            if model.vocab_map is not None:
                model.vocab_map.fill(expected)
            save_directory(model.sharded_state_dict(prefix="model."), folder / name)
    for name, (tp, pp) in (("pp2", (2, 1)), ("tp2", (1, 2))):
        with layout(tp, pp):
            model = _model(21, tp, pp, vocab_map=section)
            load_sharded(model, folder / name)
            wrong += _differ(f"saved at {name}", model, expected)
    return wrong


def _differ(what: str, model: GLMModel, expected: Tables) -> list[str]:
    own = model.vocab_map
    if own is None:
        return [f"{what}: no map"]
    same = torch.equal(own.kept_ids, expected.kept_ids)
    same = same and torch.equal(own.row_of_id, expected.row_of_id)
    return [] if same else [f"{what}: {own.row_of_id.tolist()}"]
