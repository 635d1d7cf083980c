"""Damaged checkpoints and archives are refused by name; the newest whole one is found."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from glmkd_nemo.checkpoint.archive import check_archive, extracted, pack, read_nemo_config
from glmkd_nemo.checkpoint.nemo import check_writable
from glmkd_nemo.checkpoint.sharded import (
    CheckpointDamaged,
    check_whole,
    damage,
    newest_whole,
    plain,
    write_listing,
)
from glmkd_nemo.engine import resume


def checkpoint(path: Path, age: int = 0) -> Path:
    """A directory that looks like a sharded checkpoint, ``age`` seconds old."""
    path.mkdir(parents=True)
    for name in (".metadata", "metadata.json", "common.pt", "__0_0.distcp"):
        (path / name).write_bytes(b"x" * 100)
    (path / ".metadata").write_bytes(pickle.dumps(Metadata({}, storage_data={})))
    torch.save({}, path / "common.pt")
    write_listing(path)
    then = path.stat().st_mtime - age
    os.utime(path / ".metadata", (then, then))
    return path


def truncate(path: Path) -> None:
    """Cuts the file with the tensors in half."""
    (path / "__0_0.distcp").write_bytes(b"x" * 50)


def test_whole_and_damaged(tmp_path: Path):
    old, new = checkpoint(tmp_path / "a-step=1", 10), checkpoint(tmp_path / "a-step=2-last")
    assert damage(new) is None
    assert newest_whole(tmp_path) == new
    truncate(new)
    with pytest.raises(CheckpointDamaged, match=r"a-step=2-last is truncated: .*50 bytes of 100"):
        check_whole(new)
    with pytest.raises(CheckpointDamaged, match=f"newest whole one is {old}"):
        check_whole(new)
    (new / "common.pt").unlink()
    with pytest.raises(CheckpointDamaged, match=r"lacks common.pt"):
        check_whole(new)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        check_whole(tmp_path / "nothing")


def test_resume_goes_on_from_the_newest_whole_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    old, last = checkpoint(tmp_path / "a-step=1", 10), checkpoint(tmp_path / "a-step=2-last")
    truncate(last)
    assert resume.prepare(tmp_path) == old
    told = capsys.readouterr().err
    assert "a-step=2-last is truncated" in told
    assert f"going on from {old}" in told
    assert (tmp_path / "a-step=2-last.damaged").is_dir()
    truncate(old)
    with pytest.raises(CheckpointDamaged, match=r"a-step=1 is truncated.*no whole one"):
        resume.prepare(tmp_path)


def test_what_a_kill_leaves_is_cleared(tmp_path: Path):
    older, last = checkpoint(tmp_path / "a-step=1-last", 10), checkpoint(tmp_path / "a-step=2-last")
    checkpoint(tmp_path / "a-step=3.tmp")  # killed in mid-save
    (tmp_path / "a-step=3-unfinished").touch()
    removed = checkpoint(tmp_path / "a-step=0", 20)  # killed in mid-removal
    truncate(removed)
    (tmp_path / "a-step=0-unfinished").touch()
    assert resume.prepare(tmp_path) == last
    assert [path.name for path in tmp_path.iterdir()] == ["a-step=2-last"]
    assert not older.exists()


def test_a_kill_between_two_renames(tmp_path: Path):
    checkpoint(tmp_path / "a-last.old")
    assert resume.prepare(tmp_path) == tmp_path / "a-last"
    assert resume.prepare(tmp_path / "nothing yet") is None


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small .nemo."""
    folder = tmp_path / "stage"
    checkpoint(folder / "model_weights")
    (folder / "model_config.yaml").write_text("hidden_size: 8\n")
    pack(folder, tmp_path / "x.nemo")
    shutil.rmtree(folder)
    return tmp_path / "x.nemo"


def test_an_archive_is_read(archive: Path):
    assert read_nemo_config(archive).hidden_size == 8
    with extracted(archive) as folder:
        assert damage(folder / "model_weights") is None
        assert read_nemo_config(folder).hidden_size == 8
        with extracted(folder) as same:
            assert same == folder
    assert not folder.exists()


@pytest.mark.parametrize("share", [0.99, 0.5, 0.2, 0.01])
def test_a_truncated_archive_is_refused_by_name(archive: Path, share: float):
    content = archive.read_bytes().rstrip(b"\0")
    archive.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointDamaged, match=r"x\.nemo"), extracted(archive):
        pytest.fail("entered a damaged archive")


def test_other_files_are_no_archives(tmp_path: Path):
    (tmp_path / "text.nemo").write_text("hello")
    with pytest.raises(CheckpointDamaged, match=r"text\.nemo is truncated or no \.nemo"):
        check_archive(tmp_path / "text.nemo")
    with pytest.raises(FileNotFoundError, match=r"no archive .*none\.nemo"):
        check_archive(tmp_path / "none.nemo")


def test_an_unwritable_place_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to .*file/runs .*choose another"):
        check_writable(tmp_path / "file" / "runs")
    check_writable(tmp_path / "runs")
    assert not list((tmp_path / "runs").iterdir())


def test_only_plain_containers_are_saved():
    from omegaconf import OmegaConf

    state = {"cfg": OmegaConf.create({"a": [1]}), "path": Path("x"), "t": (int, torch.ones(1))}
    result = plain(state)
    assert type(result["cfg"]) is dict
    assert result["path"] == "x"
    assert result["t"][0] is None
