"""What conversion writes beside weights, and what it tells a user who is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glmkd_nemo.checkpoint.huggingface import read_huggingface
from glmkd_nemo.checkpoint.sharded import CheckpointDamaged
from tests.checkpoint.originals import (
    HEADS,
    STUDENT,
    WORDS,
    error,
    read_module,
    run,
    same,
    weights_of,
    whole,
    write,
)

pytestmark = pytest.mark.usefixtures("alone")


def test_huggingface_bin_and_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "a", weights_of(STUDENT))
    folder = tmp_path / "hf"
    run(capsys, f"source={tmp_path / 'a'}", f"target={folder}", "format=huggingface", HEADS)
    config = json.loads((folder / "config.json").read_text())
    assert (config["vocab_size"], config["max_sequence_length"]) == (WORDS, 64)
    weights = folder / "model.safetensors"
    # copies: the file that these are mapped from is about to be cut off
    saved = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    assert all(name.startswith("glm.") for name in saved)
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointDamaged, match=r"model.safetensors is truncated or no safetens"):
        read_huggingface(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"has neither model.safetensors"):
        read_huggingface(folder)
    torch.save(saved, folder / "pytorch_model.bin")
    assert same(whole(folder), weights_of(STUDENT))
    config["relative_encoding"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json: relative_encoding = True is not supported"):
        read_huggingface(folder)


def test_what_the_user_is_told(
    tmp_path: Path, vocabulary: list[str], capsys: pytest.CaptureFixture[str]
):
    source = f"source={write(tmp_path / 'a', weights_of(STUDENT))}"
    target = f"target={tmp_path / 'a.nemo'}"
    assert "give model.num_attention_heads" in error(capsys, source, target, *vocabulary)
    for wrong in ("5", "64"):
        text = error(capsys, source, target, f"model.num_attention_heads={wrong}", *vocabulary)
        assert "does not divide 32" in text
    assert "give model.tokenizer.type" in error(capsys, source, target, HEADS)
    text = error(capsys, source, target, HEADS, "model.num_layers=3", *vocabulary)
    assert "model.num_layers=3, but the tensors" in text
    assert "did you mean target?" in error(capsys, source, "tarjet=x")
    assert "give one of nemo, sharded" in error(capsys, source, "target=x")
    assert "there is no " in error(capsys, f"source={tmp_path / 'none'}", target)
    text = error(capsys, source, f"target={tmp_path / 'a'}", "format=original", "overwrite=true")
    assert "is the source itself" in text
    (tmp_path / "there").mkdir()
    text = error(capsys, source, f"target={tmp_path / 'there'}", "format=original")
    assert "exists: choose another target" in text
    text = error(capsys, source, f"target={tmp_path}/b", "format=original", "model_parallel_size=5")
    assert "cannot be divided among 5" in text
    assert not list(tmp_path.glob("*.nemo*"))
    assert not list(tmp_path.glob("*.tmp"))


def test_a_layer_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    state = weights_of("student_3x64")
    own = {name: tensor for name, tensor in state.items() if ".layers.1." not in name}
    source = f"source={write(tmp_path / 'a', own)}"
    text = error(capsys, source, f"target={tmp_path / 'b'}", "format=original")
    assert "lacks 12 weights of a GLM: transformer.layers.1." in text


def test_parameters_of_methods_do_not_vanish(
    tmp_path: Path, vocabulary: list[str], capsys: pytest.CaptureFixture[str]
):
    state = {**weights_of(STUDENT), "student.fit_dense.weight": torch.ones(4, 4)}
    there = [f"source={write(tmp_path / 'a', state)}", f"target={tmp_path / 'a.nemo'}", HEADS]
    text = error(capsys, *there, *vocabulary)
    assert "student.fit_dense.weight" in text
    assert "drop=[student.*]" in text
    text = run(capsys, *there, *vocabulary, "drop=[student.*]")
    assert "student.fit_dense.weight" in text


def test_a_classifier(tmp_path: Path, vocabulary: list[str], capsys: pytest.CaptureFixture[str]):
    shapes = {"pool_layer": (32, 32), "multichoice_head": (3, 32)}
    head = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    head |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    state = {f"model.{name}": tensor for name, tensor in weights_of(STUDENT).items()} | head
    there = [f"source={write(tmp_path / 'a', state)}", f"target={tmp_path / 'a.nemo'}", HEADS]
    assert "give pool=cls, start or pad" in error(capsys, *there, *vocabulary)
    run(capsys, *there, *vocabulary, "pool=start")
    run(capsys, f"source={tmp_path / 'a.nemo'}", f"target={tmp_path / 'b'}", "format=original")
    assert same(read_module(tmp_path / "b"), state)
