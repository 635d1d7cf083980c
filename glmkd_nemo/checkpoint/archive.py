"""Reading ``.nemo`` archives: configuration, extraction once per node, damage by name."""

from __future__ import annotations

import os
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from glmkd_nemo.checkpoint.sharded import LISTING, CheckpointDamaged, CheckpointRefused, check_whole

CONFIG, WEIGHTS, TOKENIZER = "model_config.yaml", "model_weights", "tokenizer"


def read_nemo_config(path: str | Path) -> DictConfig:
    """The configuration inside a ``.nemo`` archive (or an unpacked one).

    Raises:
        FileNotFoundError, CheckpointDamaged: by name.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        return _config((source / CONFIG).read_text(encoding="utf-8"), source)
    check_archive(source)
    with tarfile.open(source, "r:") as archive:
        member = next(m for m in archive.getmembers() if Path(m.name).name == CONFIG)
        stream = archive.extractfile(member)
        assert stream is not None
        return _config(stream.read().decode("utf-8", "replace"), source)


def _config(text: str, source: Path) -> DictConfig:
    try:
        found = OmegaConf.create(text)
    except (YAMLError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointDamaged(f"{source}: {CONFIG} is no YAML: {reason}") from error
    if not isinstance(found, DictConfig):
        raise CheckpointDamaged(f"{source}: {CONFIG} is a list, not a model's configuration.")
    return found


def check_archive(path: str | Path) -> None:
    """Refuses an archive that is missing, truncated or no ``.nemo``.

    Raises:
        FileNotFoundError: there is none.
        CheckpointDamaged: it cannot be read to its end, or lacks configuration or weights.
    """
    source = Path(path).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"there is no archive {source}")
    try:
        with tarfile.open(source, "r:") as archive:
            members = archive.getmembers()
    except (tarfile.TarError, OSError) as error:
        raise CheckpointDamaged(f"{source} is truncated or no .nemo archive: {error}") from error
    size = source.stat().st_size
    if any(member.offset_data + member.size > size for member in members):
        raise CheckpointDamaged(f"{source} is truncated: it ends after {size} bytes")
    names = {str(Path(member.name)) for member in members}
    missing = [name for name in (CONFIG, f"{WEIGHTS}/.metadata") if name not in names]
    if missing:
        raise CheckpointDamaged(f"{source} is no whole .nemo of this project: no {missing[0]}")


@contextmanager
def extracted(path: str | Path) -> Iterator[Path]:
    """A folder with the contents of an archive, one copy per node; all ranks enter together.

    Args:
        path: a ``.nemo`` archive, or a directory that is an unpacked one.

    Raises:
        FileNotFoundError, CheckpointDamaged, CheckpointRefused: on all ranks alike, by name.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        yield source
        return
    joined = torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if joined else 0
    hosts = _gather(socket.gethostname())
    leader = hosts.index(hosts[rank]) == rank
    folder, problem = _extract(source) if leader else (None, None)
    shared = _gather((folder, problem))
    try:
        for _, error in shared:
            if error is not None:
                raise error
        yield Path(shared[hosts.index(hosts[rank])][0])
    finally:
        if joined:
            torch.distributed.barrier()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _extract(source: Path) -> tuple[str | None, Exception | None]:
    folder = None
    try:
        check_archive(source)
        folder = tempfile.mkdtemp(prefix="nemo-")
        with tarfile.open(source, "r:") as archive:
            archive.extractall(folder, filter="data")
        if (Path(folder) / WEIGHTS / LISTING).is_file():
            check_whole(Path(folder) / WEIGHTS)
    except (OSError, ValueError, tarfile.TarError) as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, FileNotFoundError | CheckpointDamaged | CheckpointRefused):
            return None, type(error)(f"{source}: {error}".replace(f"{folder}{os.sep}", ""))
        return None, CheckpointDamaged(f"{source} cannot be unpacked: {error}")
    return folder, None


def _gather(value: object) -> list:
    if not torch.distributed.is_initialized():
        return [value]
    values: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def pack(folder: Path, target: Path) -> None:
    """Packs a folder as an uncompressed archive that appears whole or not at all."""
    part = target.with_name(target.name + ".part")
    with tarfile.open(part, "w:") as archive:
        for item in sorted(folder.iterdir()):
            archive.add(item, arcname=f"./{item.name}")
    part.replace(target)
