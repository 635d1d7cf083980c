"""Reading PyTorch files of strangers: tensors and plain values, and no code of theirs runs.

PyTorch's own restricted unpickler (``weights_only``) with a short list of what saves of GLM and
DeepSpeed hold besides: numpy's random state, saved options, and loss scalers, which become inert.
"""

from __future__ import annotations

import argparse
import io
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator
from mmap import MAP_PRIVATE, MAP_SHARED
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import set_default_mmap_options

from glmkd_nemo.checkpoint.sharded import CheckpointDamaged, CheckpointRefused

_ZIP = b"PK\x03\x04"
_REMAP = 1 << 28  # bytes
_PICKLE, _LARGEST = "data.pkl", 1 << 28  # in a file of PyTorch, and its size in bytes
_SCALERS = ("LossScaler", "DynamicLossScaler", "LossScalerBase")
_INERT = (
    *(f"fp16.loss_scaler.{name}" for name in _SCALERS),
    *(f"deepspeed.runtime.fp16.loss_scaler.{name}" for name in _SCALERS),
    "deepspeed.runtime.zero.config.ZeroStageEnum",
)
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since numpy 2
_USUAL = (
    "torch",
    "collections",
    "numpy",
    "argparse",
    "_codecs",
    *(n.split(".")[0] for n in _INERT),
)
FAULTS = (  # whatever a broken pickle may raise
    *(pickle.UnpicklingError, struct.error, EOFError, RuntimeError, ValueError, OverflowError),
    *(LookupError, TypeError, AttributeError, AssertionError, MemoryError, StopIteration),
)


class Inert:
    """Stands for an object of the program that saved a file; it keeps state and does nothing."""

    def __new__(cls, *unused: Any) -> Inert:
        return super().__new__(cls)


def _allowed() -> list[Any]:
    from numpy._core import multiarray

    scalars = {type(np.dtype(kind)) for kind in ("uint32", "int64", "float64", "float32", "bool")}
    functions = [
        (getattr(multiarray, name), f"{module}.{name}")
        for module in _NUMPY
        for name in ("_reconstruct", "scalar")
    ]
    inert = [(Inert, name) for name in _INERT]
    return [argparse.Namespace, np.ndarray, np.dtype, *scalars, *functions, *inert]


def read_pickle(path: str | Path) -> Any:
    """What ``torch.save`` wrote; tensors stay on the disk until they are used.

    Files in PyTorch's old format (before 1.6), and compressed ones, cannot be mapped and are read
    whole.

    Args:
        path: of the file.

    Raises:
        OSError: there is none, or it may not be read.
        CheckpointDamaged: the file is truncated, or none of PyTorch's.
        CheckpointRefused: it asks for something that is no part of a checkpoint; nothing of it was
            run.
    """
    try:
        mappable = _is_mappable(path)
    except (zipfile.BadZipFile, *FAULTS) as error:
        raise damaged(path, str(error)) from error
    return load_object(path, str(path), mappable)


def load_object(path: str | Path, source: str | io.BytesIO, mmap: bool = False) -> Any:
    """What ``torch.save`` wrote into a stream, or part of a file.

    Args:
        path: how messages call it.
        source: what to read.
        mmap: leave tensors on the disk.

    Raises:
        CheckpointDamaged, CheckpointRefused: as :func:`read_pickle`.
    """
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except FAULTS as error:
        raise _explained(path, source, str(error)) from error


def _is_mappable(path: str | Path) -> bool:
    """Whether its tensors can be used where they lie: a zip without compression."""
    with open(path, "rb") as stream:
        if stream.read(len(_ZIP)) != _ZIP:
            return False
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    for record in records:
        if record.filename.endswith(_PICKLE) and record.file_size > _LARGEST:
            raise ValueError(
                f"its pickle has {record.file_size:,} bytes, more than {_LARGEST:,}, so it is no "
                "list of weights"
            )
    return all(record.compress_type == zipfile.ZIP_STORED for record in records)


class Mapped:
    """A file of PyTorch on the disk, mapped anew now and then.

    Pages that were used count as this process's memory as long as they are mapped, and a checkpoint
    is larger than the memory.

    Args:
        path: of the file.
        shared: what is written to its tensors goes to the file.
    """

    def __init__(self, path: Path, shared: bool = False) -> None:
        self.path, self._shared = path, shared
        self._map()

    def _map(self) -> None:
        self._used = 0
        self._state: Any = None
        with set_default_mmap_options(MAP_SHARED if self._shared else MAP_PRIVATE):
            self._state = read_pickle(self.path)

    @property
    def state(self) -> Any:
        """What the file holds; use a tensor of it, and let it go."""
        if self._used > _REMAP:
            self._map()
        return self._state

    def used(self, number: int) -> None:
        """So many bytes of its tensors were read or written."""
        self._used += number


def refused(path: str | Path, name: str) -> CheckpointRefused:
    """The error of a pickle that asks for ``name``."""
    return CheckpointRefused(
        f"{path}: its pickle asks for {name}, which is no part of a checkpoint; nothing of it "
        "was run. Do not trust this file: get it from its authors, or have them save the weights "
        "alone (safetensors)."
    )


def damaged(path: str | Path, message: str) -> CheckpointDamaged:
    """The error of a file that cannot be read, with the first line of a reason."""
    first = message.strip().split("\n")[0][:160]
    return CheckpointDamaged(f"{path} is truncated or no file of PyTorch ({first}): copy it again.")


def _explained(path: str | Path, source: str | io.BytesIO, message: str) -> ValueError:
    """Why a pickle could not be loaded: what it asks for, its protocol, or damage."""
    found = re.search(r"(?:GLOBAL|for class|function|of type)\s+`?([\w.]+\.[\w.]+)", message)
    protocol, names = _contents(source)
    strange = [name for name in names if name.split(".")[0] not in _USUAL]
    if strange:
        return refused(path, strange[0])
    if found:
        return refused(path, found[1])
    if protocol > 2:
        return CheckpointDamaged(
            f"{path} was saved with pickle protocol {protocol}, of which nothing can be read "
            "safely: have it saved anew by torch.save(..., pickle_protocol=2) or as safetensors."
        )
    return damaged(path, message)


def _contents(source: str | io.BytesIO) -> tuple[int, list[str]]:
    """Protocol of a pickle and the names that it asks for, as far as it can be parsed."""
    memo: dict[int, str] = {}
    protocol, names, strings = 0, [], [""]
    try:
        for code, value, _ in _operations(source):
            if code.name == "PROTO":
                protocol = max(protocol, value)
            elif code.name == "GLOBAL":
                names.append(value.replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif code.name == "MEMOIZE":
                memo[len(memo)] = strings[-1]
            elif "PUT" in code.name:
                memo[value] = strings[-1]
            elif "GET" in code.name:
                strings.append(memo.get(value, ""))
            elif isinstance(value, str):
                strings.append(value)
    except (zipfile.BadZipFile, *FAULTS):
        return protocol, names
    return protocol, names


def _operations(source: str | io.BytesIO) -> Iterator[Any]:
    stream = io.BytesIO(_pickled(source))
    while stream.tell() < stream.getbuffer().nbytes:  # the old format has several, one by one
        yield from pickletools.genops(stream)


def _pickled(source: str | io.BytesIO) -> bytes:
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            name = next(n for n in archive.namelist() if n.endswith(_PICKLE))
            return archive.read(name)
    if isinstance(source, io.BytesIO):
        return source.getvalue()
    with open(source, "rb") as stream:
        return stream.read(_LARGEST)
