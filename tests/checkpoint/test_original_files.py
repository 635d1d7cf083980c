"""Original checkpoints are found, read and accounted for; what is wrong with one is named."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.checkpoint.original_files import read_original
from glmkd_nemo.checkpoint.pickles import read_pickle
from glmkd_nemo.checkpoint.sharded import CheckpointDamaged
from glmkd_nemo.checkpoint.whole import Weights
from tests.checkpoint.originals import (
    ITERATION,
    MAPPED,
    STUDENT,
    same,
    tables_of,
    weights_of,
    write,
)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return weights_of(STUDENT)


def whole(weights: Weights) -> dict[str, Tensor]:
    return {name: weights.read(name) for name in weights.metas}


def shard(folder: Path, rank: int) -> Path:
    return folder / str(ITERATION) / f"mp_rank_{rank:02d}_model_states.pt"


@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_size(state: dict[str, Tensor], tmp_path: Path, size: int):
    weights = read_original(write(tmp_path / "x", state, size))
    assert same(whole(weights), state)
    assert weights.not_weights == (
        *("iteration", "random_rng_state", "np_rng_state", "torch_rng_state"),
    )
    assert weights.iteration == ITERATION


def test_every_way_to_name_it(state: dict[str, Tensor], tmp_path: Path):
    folder = write(tmp_path / "x", state, 2, tracker="latest")
    for source in (folder, folder / str(ITERATION), shard(folder, 1)):
        assert same(whole(read_original(source)), state)
    assert read_original(folder, tag=str(ITERATION)).iteration == ITERATION
    with pytest.raises(FileNotFoundError, match="no folder '7'"):
        read_original(folder, tag="7")
    with pytest.raises(FileNotFoundError, match=r"neither latest_checkpointed_iteration.txt"):
        read_original(tmp_path)


def test_wrapped_models_and_what_deepspeed_saves(state: dict[str, Tensor], tmp_path: Path):
    entries = {"mp_world_size": 1, "dp_world_size": 4, "ds_config": {}, "optimizer": None}
    wrapped = {f"module.model.{name}": tensor for name, tensor in state.items()}
    weights = read_original(write(tmp_path / "x", wrapped, entries=entries))
    assert same(whole(weights), state)
    assert weights.not_weights == tuple(entries)
    twice = {**wrapped, "word_embeddings.weight": state["word_embeddings.weight"]}
    with pytest.raises(ValueError, match=r"has 'word_embeddings.weight' twice"):
        read_original(write(tmp_path / "y", twice))


def test_tables_of_a_vocabulary_map(tmp_path: Path):
    tables = tables_of(MAPPED)
    weights = read_original(write(tmp_path / "x", weights_of(MAPPED), tables=tables))
    assert weights.tables is not None
    assert torch.equal(weights.tables.row_of_id, tables["origin_id_to_target_pos"])
    assert torch.equal(weights.tables.kept_ids, tables["target_pos_to_origin_id"][:64])


def test_parameters_of_a_method_are_kept_apart_or_dropped(state: dict[str, Tensor], tmp_path: Path):
    extra = "student.fit_dense.weight"
    folder = write(tmp_path / "x", {**state, extra: torch.ones(4, 4)}, 2)
    weights = read_original(folder)
    assert list(weights.extras) == [extra]
    assert torch.equal(weights.read(extra), torch.ones(4, 4))
    weights = read_original(folder, drop=["student.*"])
    assert (weights.extras, weights.dropped) == ({}, (extra,))


def test_unknown_entries_are_named(state: dict[str, Tensor], tmp_path: Path):
    for number, (name, value) in enumerate({"prompt_spell.w": 1, "lora": 2}.items()):
        more: dict[str, Any] = {"entries": {name: value}} if name == "lora" else {"entries": {}}
        own = {**state, name: torch.ones(1)} if name != "lora" else state
        folder = write(tmp_path / str(number), own, **more)
        with pytest.raises(ValueError, match=rf"1 entries that no GLM has: {name}.*drop=\[{name}"):
            read_original(folder)
        assert read_original(folder, drop=[name]).dropped == (name,)


class Evil:
    """Runs a command when it is unpickled by a careless program."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


def test_a_malicious_pickle_is_refused_and_nothing_runs(state: dict[str, Tensor], tmp_path: Path):
    trace = tmp_path / "trace"
    folder = write(tmp_path / "x", state, entries={"iteration": Evil(trace)})
    with pytest.raises(ValueError, match=r"mp_rank_00.*asks for (posix|os)\.system.*nothing"):
        read_original(folder)
    assert not trace.exists()


def test_old_format_and_loss_scalers(tmp_path: Path):
    scaler = type("DynamicLossScaler", (), {"__module__": "fp16.loss_scaler"})
    import sys
    import types

    module = types.ModuleType("fp16.loss_scaler")
    module.DynamicLossScaler = scaler  # type: ignore[attr-defined]
    file = tmp_path / "x.pt"
    sys.modules |= {"fp16": types.ModuleType("fp16"), "fp16.loss_scaler": module}
    try:
        value = scaler()
        value.cur_scale = 1024
        torch.save({"optimizer": value}, file, _use_new_zipfile_serialization=False)
    finally:
        del sys.modules["fp16.loss_scaler"], sys.modules["fp16"]
    assert read_pickle(file)["optimizer"].cur_scale == 1024


@pytest.mark.parametrize("keep", [0, 3, 1000, -1000])
def test_a_truncated_shard_is_named(state: dict[str, Tensor], tmp_path: Path, keep: int):
    file = shard(write(tmp_path / "x", state, 2), 1)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointDamaged, match=r"mp_rank_01_model_states.pt is truncated"):
        read_original(tmp_path / "x")


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_missing_shard_is_named(state: dict[str, Tensor], tmp_path: Path, rank: int):
    file = shard(write(tmp_path / "x", state, 4), rank)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        read_original(tmp_path / "x")


def test_a_shard_of_another_model_is_named(state: dict[str, Tensor], tmp_path: Path):
    folder = write(tmp_path / "x", state, 2)
    for other in ("student_2x64", "student_3x64"):
        stranger = shard(write(tmp_path / other, weights_of(other), 2), 1)
        shard(folder, 1).write_bytes(stranger.read_bytes())
        with pytest.raises(ValueError, match=r"mp_rank_01.*is a shard of another model than mp_"):
            read_original(folder)


def test_a_shard_of_a_twin_is_noticed_when_it_is_read(state: dict[str, Tensor], tmp_path: Path):
    folder = write(tmp_path / "x", state, 2)
    twin = {name: tensor + 1 for name, tensor in state.items()}
    shard(folder, 1).write_bytes(shard(write(tmp_path / "y", twin, 2), 1).read_bytes())
    name = "transformer.final_layernorm.weight"
    with pytest.raises(ValueError, match=rf"mp_rank_01.*: {name} differs from the one of mp_rank_"):
        read_original(folder).read(name)
    assert torch.equal(read_original(folder, replicas="first").read(name), state[name])


def change(file: Path, **entries: Any) -> None:
    """Replaces entries of a shard."""
    torch.save({**read_pickle(file), **entries}, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)  # the old one is mapped


def strange() -> Iterator[tuple[dict[str, Any], str]]:
    """Entries of the second shard, and the message."""
    tables = tables_of(MAPPED)
    beside = "important_nonparameters"
    yield {"iteration": 999}, r"mp_rank_01.* is a shard of another model .*iteration is 999"
    yield {"odd": 1}, r"mp_rank_01.* has 1 entries that no GLM has: odd"
    yield {beside: {"zz": 1}}, r"mp_rank_01.*has 1 entries .*important_nonparameters.zz"
    yield {beside: {"glm.map_vocab_paras": tables}}, r"its vocabulary map is another one"
    yield {beside: {"glm.map_vocab_paras": [1]}}, r"mp_rank_01.* is no vocabulary map of the orig"
    yield {beside: ["x"]}, r"mp_rank_01.*important_nonparameters is no mapping"
    yield {"mp_world_size": 3}, r"its mp_world_size is 3"


def test_entries_of_all_shards_are_accounted_for(state: dict[str, Tensor], tmp_path: Path):
    folder = write(tmp_path / "x", state, 2, entries={"iteration": 1})
    content = shard(folder, 1).read_bytes()
    for entries, message in strange():
        change(shard(folder, 1), **entries)
        with pytest.raises(ValueError, match=message):
            read_original(folder)
        shard(folder, 1).write_bytes(content)
    change(shard(folder, 0), mp_world_size=3)
    with pytest.raises(FileNotFoundError, match=r"has 2 of 3 shards"):
        read_original(folder)


def test_copies_empty_weights_and_wrong_options(state: dict[str, Tensor], tmp_path: Path):
    folder = write(tmp_path / "x", state, 2)
    shard(folder, 1).write_bytes(shard(folder, 0).read_bytes())
    with pytest.raises(ValueError, match=r"mp_rank_01.* is a copy of mp_rank_00"):
        read_original(folder)
    folder = write(tmp_path / "y", state)
    change(shard(folder, 0), module=dict.fromkeys(state, torch.empty(0)))
    with pytest.raises(ValueError, match=r"are empty, as DeepSpeed's ZeRO-3 .*consolidate"):
        read_original(folder)
    change(shard(folder, 0), module={**state, "word_embeddings.weight": torch.tensor(1.0)})
    with pytest.raises(ValueError, match=r"word_embeddings.weight has the shape \(\)"):
        read_original(folder)
    args = argparse.Namespace(num_attention_heads="4")
    with pytest.raises(ValueError, match=r"saved args have num_attention_heads='4'"):
        read_original(write(tmp_path / "z", state, entries={"args": args}))


def test_not_a_number_is_equal_to_itself(state: dict[str, Tensor], tmp_path: Path):
    name = "transformer.final_layernorm.bias"
    own = {**state, name: torch.full_like(state[name], float("nan"))}
    assert read_original(write(tmp_path / "x", own, 2)).read(name).isnan().all()


def test_maps_of_methods_are_put_together(state: dict[str, Tensor], tmp_path: Path):
    many, one = "student.multi_teacher_model.fit_dense_0.weight", "student.fit_dense.weight"
    whole_map = torch.arange(64.0).view(8, 8)
    folder = write(tmp_path / "x", {**state, many: whole_map}, 2)
    assert torch.equal(read_original(folder).read(many), whole_map)
    for rank in range(2):
        module = {**read_pickle(shard(folder, rank))["module"], one: whole_map + rank}
        change(shard(folder, rank), module=module)
    with pytest.raises(ValueError, match=rf"how it is divided is not known.*drop=\[{one}"):
        read_original(folder, replicas="first").read(one)
    for rank in range(2):
        change(shard(folder, rank), args=argparse.Namespace(tinybert_fit_parallel=True))
    merged = read_original(folder).read(one)
    assert torch.equal(merged, torch.cat([whole_map, whole_map + 1]))
