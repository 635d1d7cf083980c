"""Checkpoints keep every bit from the original layout through all others and back."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.planner import WriteItem

from glmkd_nemo.checkpoint import skeleton, streaming
from glmkd_nemo.checkpoint.convert import convert, read_any
from glmkd_nemo.checkpoint.convert_settings import load_request
from glmkd_nemo.checkpoint.pickles import read_pickle
from glmkd_nemo.checkpoint.whole import Weights
from tests.checkpoint.originals import (
    GOLDEN,
    HEADS,
    ITERATION,
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
    write,
)
from tests.launch import run_ranks

pytestmark = pytest.mark.usefixtures("alone")
SHARED = GOLDEN.parents[1].parent / "shared" / "golden"


MODELS = {STUDENT: 4, "student_3x64": 2, "teacher_4x64": 1, MAPPED: 2}  # and model-parallel size


def archives(
    folder: Path, models: list[str], vocabulary: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Original checkpoints of models, and a ``.nemo`` of each."""
    for model in models:
        source = write(folder / model, weights_of(model), MODELS[model], tables_of(model))
        there = [f"source={source}", f"target={source}.nemo", HEADS, "--verify", *vocabulary]
        mapped = [MAPPED_HEAD] if model == MAPPED else []
        text = run(capsys, *there, *mapped)
        assert "bit by bit" in text
        assert f"all {len(weights_of(model))} by name" in text


def check_way_back(
    source: Path, folder: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a ``.nemo`` or a sharded folder over Hugging Face to the original, bit by bit."""
    if model != MAPPED:  # which has no Hugging Face form
        there = [f"source={source}", f"target={folder / model}-hf", "format=huggingface"]
        run(capsys, *there, "shard_size=100KB")
        source = folder / f"{model}-hf"
        assert len(list(source.glob("*.safetensors"))) > 1
    there = [f"source={source}", f"target={folder / model}-back", "format=original"]
    assert "bit by bit" in run(capsys, *there, "--verify")
    assert same(read_module(folder / f"{model}-back"), weights_of(model)), model


def test_from_the_original_to_nemo_to_huggingface_and_back(
    tmp_path: Path, vocabulary: list[str], capsys: pytest.CaptureFixture[str]
):
    for model in (STUDENT, MAPPED):
        archives(tmp_path, [model], vocabulary, capsys)
        check_way_back(tmp_path / f"{model}.nemo", tmp_path, model, capsys)


def test_half_precision_stays_half(
    tmp_path: Path, vocabulary: list[str], capsys: pytest.CaptureFixture[str]
):
    state = {name: tensor.half() for name, tensor in weights_of(STUDENT).items()}
    source = write(tmp_path / "a", state, 2)
    text = run(capsys, f"source={source}", f"target={source}.nemo", HEADS, "--verify", *vocabulary)
    assert "29 float16" in text
    run(capsys, f"source={source}.nemo", f"target={tmp_path / 'b'}", "format=original")
    assert same(read_module(tmp_path / "b"), state)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_with_a_stop_at_two_by_two_ranks(
    tmp_path: Path, vocabulary: list[str], capsys: pytest.CaptureFixture[str]
):
    archives(tmp_path, list(MODELS), vocabulary, capsys)
    jobs = [(f"{tmp_path / model}.nemo", f"{tmp_path / model}-2x2") for model in MODELS]
    arguments = {"jobs": jobs, "tp": 2, "pp": 2}
    run_ranks("tests.checkpoint.conversion_ranks:reshard", 4, arguments, timeout=400)
    for model in MODELS:
        check_way_back(tmp_path / f"{model}-2x2", tmp_path, model, capsys)


@pytest.mark.parametrize(("first", "second"), [(1, 4), (4, 2), (2, 1)])
def test_another_model_parallel_size(
    tmp_path: Path, first: int, second: int, capsys: pytest.CaptureFixture[str]
):
    """As the reference's change_mp, without knowing the number of heads."""
    state = {**weights_of(MAPPED), "student.fit_dense.weight": torch.ones(4, 4)}
    write(tmp_path / "a", state, first, tables_of(MAPPED))
    write(tmp_path / "b", state, second, tables_of(MAPPED))
    run(
        capsys,
        f"source={tmp_path / 'a'}",
        f"target={tmp_path / 'c'}",
        "format=original",
        f"model_parallel_size={second}",
    )
    for rank in range(second):
        file = Path(str(ITERATION)) / f"mp_rank_{rank:02d}_model_states.pt"
        made, right = (read_pickle(tmp_path / x / file) for x in ("c", "b"))
        assert same(made["module"], right["module"])
        tables = "important_nonparameters"
        assert same(made[tables]["glm.map_vocab_paras"], right[tables]["glm.map_vocab_paras"])
        assert (made["mp_world_size"], made["iteration"]) == (second, ITERATION)


def forms() -> Iterator[tuple[str, list[str]]]:
    """Models of other forms, with the options that their tensors do not tell."""
    yield "albert_3x64", ["model.num_layers=3"]
    yield "cross_layer_sharing_3x64", ["model.num_layers=3"]
    yield "compress_word_emb_2x64", []
    yield "ib_student_2x64", []
    yield "map_vocab64_decoder_unmap_2x32", ["model.vocab_map.unmap_output=true"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/golden, all recorded models")
@pytest.mark.parametrize(("model", "options"), forms())
def test_other_forms(
    tmp_path: Path,
    vocabulary: list[str],
    model: str,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
):
    state = weights_of(model, SHARED)
    write(tmp_path / "a", state, 2, tables_of(model, SHARED))
    nemo, there = tmp_path / "a.nemo", [f"source={tmp_path / 'a'}", HEADS, *options]
    run(capsys, *there, f"target={nemo}", "verify=true", *vocabulary)
    run(capsys, f"source={nemo}", f"target={tmp_path / 'b'}", "format=original")
    assert same(read_module(tmp_path / "b"), state)
    refused = error(capsys, *there, f"target={tmp_path / 'hf'}", "format=huggingface")
    assert "has no Hugging Face layout" in refused
    assert not (tmp_path / "hf").exists()


class Alive:
    """Counts the bytes of weights that are in use at one time."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.now, self.most = weights, 0, 0

    def read(self, name: str) -> Tensor:
        tensor = self.weights.read(name).clone()
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(tensor.untyped_storage(), self._gone, tensor.nbytes)
        return tensor

    def _gone(self, number: int) -> None:
        self.now -= number


@pytest.mark.parametrize("form", ["nemo", "original", "huggingface"])
def test_few_weights_are_in_memory_at_one_time(tmp_path: Path, vocabulary: list[str], form: str):
    write(tmp_path / "a", weights_of("teacher_4x64"), 2)
    arguments = [f"source={tmp_path / 'a'}", f"target={tmp_path / 'b'}", f"format={form}", HEADS]
    request = load_request([*arguments, *vocabulary, "shard_size=100KB", "model_parallel_size=2"])
    with read_any(request.source) as weights:
        alive = Alive(weights)
        convert(request, replace(weights, read=alive.read))
        largest = max(tensor.nbytes for tensor in weights.metas.values())
        at_once = 100_000 + largest if form == "huggingface" else largest
        assert largest <= alive.most <= 2 * at_once < weights.bytes


def test_what_is_written_is_let_go(
    tmp_path: Path, vocabulary: list[str], monkeypatch: pytest.MonkeyPatch
):
    """PyTorch's writer keeps the tensors that it has written; their data must not stay."""
    given: list[Tensor] = []
    resolve = streaming._Streaming.resolve_data

    def watched(planner: streaming._Streaming, item: WriteItem) -> Tensor | io.BytesIO:
        data = resolve(planner, item)
        if isinstance(data, Tensor):
            given.append(data)
            assert sum(t.untyped_storage().nbytes() for t in given) == data.nbytes
        return data

    monkeypatch.setattr(streaming._Streaming, "resolve_data", watched)
    write(tmp_path / "a", weights_of(STUDENT))
    there = [f"source={tmp_path / 'a'}", f"target={tmp_path / 'b'}", "format=sharded", HEADS]
    request = load_request([*there, *vocabulary])
    with read_any(request.source) as weights:
        convert(request, weights)
        assert len(given) >= len(weights.metas)


def test_places_are_those_of_a_real_model(tmp_path: Path, vocabulary: list[str]):
    """A file written tensor by tensor has the keys that Megatron-Core's own writer gives."""
    write(tmp_path / "a", weights_of(STUDENT))
    there = [f"source={tmp_path / 'a'}", f"target={tmp_path / 'b'}", "format=sharded", HEADS]
    request = load_request([*there, *vocabulary])
    with read_any(request.source) as weights:
        model = convert(request, weights)
    net = skeleton.model_on_meta(model, WORDS)
    assert all(p.device.type == "meta" for p in net.parameters())
    reader = streaming.ShardedReader(tmp_path / "b" / "model_weights")
    found = {p.key for p in skeleton.places(net).values()}
    assert reader.stored.keys() == found
    assert reader.stored["model.embedding.word_embeddings.weight"][0] == (WORDS, 32)
