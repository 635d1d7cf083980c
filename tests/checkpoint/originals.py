"""Original checkpoints, written as the reference's programs write them, from recorded models."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from glmkd_nemo.checkpoint.convert import read_any
from glmkd_nemo.checkpoint.partition import split
from glmkd_nemo.checkpoint.summary import main

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
STUDENT = "student_2x32"  # 2 layers, hidden 32, 4 heads, 128 tokens
MAPPED = "map_vocab64_decoder_2x32"
ITERATION = 120
WORDS = 128
HEADS = "model.num_attention_heads=4"
MAPPED_HEAD = "model.vocab_map.unmap_output=false"


def weights_of(model: str, root: Path = GOLDEN) -> dict[str, Tensor]:
    """A recorded model: whole weights by original name."""
    return load_file(root / "models" / f"{model}.safetensors")


def tables_of(model: str, root: Path = GOLDEN) -> dict[str, Tensor]:
    """The three tables of a recorded vocabulary map, as the reference saves them."""
    file = root / "glm" / model / "tensors.safetensors"
    tensors = load_file(file) if model.startswith("map_vocab") else {}
    prefix = "map_vocab_paras/"
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def plain_entries() -> dict[str, Any]:
    """What a save without DeepSpeed has besides weights."""
    return {
        "iteration": ITERATION,
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
    }


def write(
    folder: Path,
    state: dict[str, Tensor],
    size: int = 1,
    tables: dict[str, Tensor] | None = None,
    entries: dict[str, Any] | None = None,
    tracker: str = "latest_checkpointed_iteration.txt",
) -> Path:
    """Writes a checkpoint of ``size`` shards; returns its folder."""
    inside = folder / str(ITERATION)
    inside.mkdir(parents=True)
    (folder / tracker).write_text(f"{ITERATION}\n")
    parts = {name: split(name, tensor, size) for name, tensor in state.items()}
    for rank in range(size):
        module = {name: part[rank].clone() for name, part in parts.items()}
        beside = {"important_nonparameters": {"glm.map_vocab_paras": tables}} if tables else {}
        saved = {"module": module, **beside, **(plain_entries() if entries is None else entries)}
        torch.save(saved, inside / f"mp_rank_{rank:02d}_model_states.pt")
    return folder


def read_module(folder: Path) -> dict[str, Tensor]:
    """Weights of the one shard of a checkpoint, read by PyTorch alone."""
    (file,) = folder.glob("*/mp_rank_*_model_states.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(file, weights_only=True)["module"]


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether both have the same names, dtypes and values, bit by bit."""
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and torch.equal(left[n], right[n]) for n in left
    )


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Converts; returns what was printed."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def error(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Converts in vain; returns the message."""
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def whole(source: Path) -> dict[str, Tensor]:
    """All weights of a checkpoint of any format."""
    with read_any(source) as weights:
        return {name: weights.read(name) for name in weights.metas}
