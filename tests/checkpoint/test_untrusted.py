"""Pickles of strangers: nothing of them runs, and what is wrong with one is named."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from glmkd_nemo.checkpoint import pickles
from glmkd_nemo.checkpoint.archive import extracted, pack
from glmkd_nemo.checkpoint.pickles import read_pickle
from glmkd_nemo.checkpoint.sharded import (
    CheckpointDamaged,
    CheckpointRefused,
    check_whole,
    write_listing,
)
from tests.checkpoint.originals import HEADS, STUDENT, run, weights_of, write

pytestmark = pytest.mark.usefixtures("alone")


class Evil:
    """Makes a file when it is unpickled by a careless program."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def folder(tmp_path: Path, vocabulary: list[str], capsys: pytest.CaptureFixture[str]) -> Path:
    """A sharded folder."""
    source = write(tmp_path / "a", weights_of(STUDENT))
    there = [f"source={source}", f"target={tmp_path / 'sh'}", "format=sharded", HEADS, *vocabulary]
    run(capsys, *there)
    return tmp_path / "sh"


def test_a_malicious_sharded_folder_is_refused_everywhere(folder: Path, tmp_path: Path):
    weights, trace = folder / "model_weights", tmp_path / "trace"
    check_whole(weights)
    whole = tmp_path / "whole"
    shutil.copytree(weights, whole)
    (weights / ".metadata").write_bytes(pickle.dumps(Evil(trace)))
    write_listing(weights)
    with pytest.raises(CheckpointRefused, match=r"\.metadata: its pickle asks for posix.mkdir"):
        check_whole(weights)
    pack(folder, tmp_path / "evil.nemo")
    match = r"evil.nemo: model_weights.\.metadata: its pickle asks for posix.mkdir"
    with pytest.raises(CheckpointRefused, match=match), extracted(tmp_path / "evil.nemo"):
        pass
    shutil.copy(whole / ".metadata", weights)
    torch.save({"a": Evil(trace)}, weights / "common.pt")
    write_listing(weights)
    with pytest.raises(CheckpointRefused, match=r"common.pt: its pickle asks for posix.mkdir"):
        check_whole(weights)
    assert not trace.exists()


def test_malicious_objects_beside_tensors_are_refused(folder: Path, tmp_path: Path):
    """Megatron-Core's loader unpickles them without restriction."""
    weights, trace = folder / "model_weights", tmp_path / "trace"
    metadata = pickle.loads((weights / ".metadata").read_bytes())  # our own
    index, info = next((i, s) for i, s in metadata.storage_data.items() if "_extra_state" in i.fqn)
    torch.save([Evil(trace)], weights / "evil.distcp")
    info.relative_path, info.offset = "evil.distcp", 0
    info.length = (weights / "evil.distcp").stat().st_size
    (weights / ".metadata").write_bytes(pickle.dumps(metadata))
    write_listing(weights)
    with pytest.raises(CheckpointRefused, match=r"evil.distcp: its pickle asks for posix.mkdir"):
        check_whole(weights)
    assert index.fqn
    assert not trace.exists()


def test_a_broken_metadata_is_named(folder: Path):
    weights = folder / "model_weights"
    content = (weights / ".metadata").read_bytes()
    for broken in (content[:50], b"x", pickle.dumps({})):
        (weights / ".metadata").write_bytes(broken)
        write_listing(weights)
        with pytest.raises(CheckpointDamaged, match=r"\.metadata is truncated or no file"):
            check_whole(weights)
    (weights / "files.json").write_text(json.dumps([]))
    with pytest.raises(CheckpointDamaged, match=r"files.json is no list of files"):
        check_whole(weights)


def test_a_compressed_file_is_read_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain, packed = tmp_path / "a.pt", tmp_path / "b.pt"
    state = {"w": torch.arange(1000.0)}
    torch.save(state, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w") as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record), zipfile.ZIP_DEFLATED)
    assert torch.equal(read_pickle(packed)["w"], state["w"])
    monkeypatch.setattr(pickles, "_LARGEST", 10)
    with pytest.raises(CheckpointDamaged, match=r"b.pt .*its pickle has \d+ bytes, more than 10"):
        read_pickle(packed)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_newer_protocol_is_told(tmp_path: Path, zipped: bool):
    file, trace = tmp_path / "a.pt", tmp_path / "trace"
    how: Any = {"pickle_protocol": 4, "_use_new_zipfile_serialization": zipped}
    torch.save({"w": torch.ones(2)}, file, **how)
    with pytest.raises(CheckpointDamaged, match=r"a.pt was saved with pickle protocol 4"):
        read_pickle(file)
    torch.save({"w": Evil(trace)}, file, **how)
    with pytest.raises(CheckpointRefused, match=r"a.pt: its pickle asks for posix.mkdir"):
        read_pickle(file)
    assert not trace.exists()


def test_any_broken_pickle_is_damage(tmp_path: Path):
    """Bytes changed one by one: never anything but an error of ours, or a value."""
    file = tmp_path / "a.pt"
    torch.save({"w": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    for position in range(0, len(content), 7):
        changed = bytes([content[position] ^ 0x25])
        file.write_bytes(content[:position] + changed + content[position + 1 :])
        with contextlib.suppress(CheckpointDamaged, CheckpointRefused):
            assert isinstance(read_pickle(file), object)
