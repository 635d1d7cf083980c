"""What conversion writes beside weights, and what it tells a user who is wrong."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmkd_nemo.checkpoint.huggingface import read_huggingface
from glmkd_nemo.checkpoint.original_files import read_original
from glmkd_nemo.checkpoint.sharded import CheckpointDamaged
from tests.checkpoint.originals import (
    HEADS,
    MAPPED,
    MAPPED_HEAD,
    STUDENT,
    WORDS,
    error,
    read_module,
    run,
    same,
    tables_of,
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
    there = [f"source={tmp_path / 'a.nemo'}", f"target={tmp_path / 'b'}", "format=original"]
    assert "bit by bit" in run(capsys, *there, "--verify")
    assert same(read_module(tmp_path / "b"), state)


def test_what_tensors_do_not_tell_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    saved = argparse.Namespace(num_attention_heads=4, attention_scale=8.0, lr=0.1, odd=[1])
    write(tmp_path / "a", weights_of(STUDENT), entries={"args": saved, "iteration": 7})
    for source, target, form in (("a", "b", "huggingface"), ("b", "c", "original")):
        there = [f"source={tmp_path / source}", f"target={tmp_path / target}", f"format={form}"]
        assert "bit by bit" in run(capsys, *there, "--verify")
    told = read_original(tmp_path / "c")
    assert (told.model["num_attention_heads"], told.model["attention_scale"]) == (4, 8.0)
    run(capsys, f"source={tmp_path / 'a'}", f"target={tmp_path / 'd'}", "format=original")
    again = read_original(tmp_path / "d")
    assert (again.tag, again.iteration, again.args["lr"]) == ("120", 7, 0.1)
    more = ["format=original", "model.layernorm_epsilon=1e-12"]
    text = error(capsys, f"source={tmp_path / 'a'}", f"target={tmp_path / 'e'}", *more)
    assert "layernorm_epsilon=1e-12, and the programs that read format=original" in text


def test_whether_a_head_is_unmapped_is_asked(
    tmp_path: Path, vocabulary: list[str], capsys: pytest.CaptureFixture[str]
):
    write(tmp_path / "a", weights_of(MAPPED), tables=tables_of(MAPPED))
    there = [f"source={tmp_path / 'a'}", HEADS, *vocabulary]
    text = error(capsys, *there, f"target={tmp_path / 'a.nemo'}")
    assert "give model.vocab_map.unmap_output=true or false" in text
    run(capsys, *there, f"target={tmp_path / 'b'}", "format=original", MAPPED_HEAD)
    text = run(capsys, f"source={tmp_path / 'b'}", f"target={tmp_path / 'b.nemo'}", *vocabulary)
    assert "vocabulary map" in text


def huggingface_errors(state: dict[str, torch.Tensor]) -> Iterator[tuple[str, Any, str]]:
    """A file's name, what it holds, and the message."""
    single, twin = "model.safetensors", "word_embeddings.weight"
    yield single, {**state, twin: state[f"glm.{twin}"].clone()}, f"has '{twin}', and model.safe"
    yield single, {**state, "lm_head.weight": torch.ones(1)}, f"{single}: 'lm_head.weight' is no"
    yield single, {n: t.to(torch.int8) for n, t in state.items()}, "is torch.int8, not floating"
    yield "config.json", [], "config.json is a list, not a model's"
    yield "config.json", {"num_attention_heads": "4"}, "num_attention_heads = '4' is no size"
    yield "config.json", {"vocab_size": 999}, "vocab_size = 999, but the weights have 128 rows"
    yield f"{single}.index.json", {"x": 1}, "index.json has no weight_map"
    listed = dict.fromkeys(state, "a.safetensors")
    yield (
        f"{single}.index.json",
        {"weight_map": listed},
        "a.safetensors has 'compress_emb_mlp.bias'",
    )
    yield "pytorch_model.bin", [1, 2], "pytorch_model.bin is no mapping from names"


def test_strange_huggingface_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "a", weights_of(STUDENT))
    plain = tmp_path / "plain"
    run(capsys, f"source={tmp_path / 'a'}", f"target={plain}", "format=huggingface", HEADS)
    state = load_file(plain / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    for number, (name, content, message) in enumerate(huggingface_errors(state)):
        folder = tmp_path / str(number)
        shutil.copytree(plain, folder)
        if name not in ("model.safetensors", "config.json"):
            (folder / "model.safetensors").unlink()
            odd = {"compress_emb_mlp.bias": torch.ones(1)}
            save_file({**state, **odd}, folder / "a.safetensors")
        if name.endswith(".safetensors"):
            save_file(content, folder / name)
        elif name.endswith(".bin"):
            torch.save(content, folder / name)
        else:
            whole_config = {**config, **content} if name == "config.json" and content else content
            (folder / name).write_text(json.dumps(whole_config))
        text = error(capsys, f"source={folder}", f"target={tmp_path / 'x'}", "format=original")
        assert message in text


def test_options_of_other_formats_are_refused(
    tmp_path: Path, vocabulary: list[str], capsys: pytest.CaptureFixture[str]
):
    write(tmp_path / "a", weights_of(STUDENT))
    folder = tmp_path / "b"
    run(
        capsys, f"source={tmp_path / 'a'}", f"target={folder}", "format=sharded", HEADS, *vocabulary
    )
    there = [f"target={tmp_path / 'x'}", "format=original"]
    for option in ("tag=1", "drop=[student.*]", "replicas=first"):
        assert "is of the original's files" in error(capsys, f"source={folder}", *there, option)
    for option in ("drop=[transformer.*]", "drop=[typo]"):
        text = error(capsys, f"source={tmp_path / 'a'}", *there, option)
        assert "is the name of nothing that can be left out" in text
    assert "the tag '../a'" in error(capsys, f"source={tmp_path / 'a'}", *there, "tag=../a")
    assert "model=5: give its keys" in error(capsys, f"source={folder}", *there, "model=5")
    for content, message in (("a: [1\n", "is no YAML"), ("a: 1", "num_layers=None, which is no")):
        (folder / "model_config.yaml").write_text(content)
        assert message in error(capsys, f"source={folder}", *there)
