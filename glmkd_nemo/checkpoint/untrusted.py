"""Pickles inside a sharded checkpoint, looked at before PyTorch and Megatron-Core load them.

Both load ``.metadata``, and the objects beside the tensors in ``*.distcp``, without restriction: a
stranger's could run anything. Here they are loaded with a short list of what they may ask for.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from glmkd_nemo.checkpoint.pickles import FAULTS, damaged, load_object, read_pickle, refused
from glmkd_nemo.checkpoint.sharded import CheckpointRefused

_DCP = "torch.distributed.checkpoint"
_CLASSES = {
    f"{_DCP}.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("BytesStorageMetadata", "ChunkStorageMetadata", "TensorStorageMetadata"),
    ),
    f"{_DCP}.filesystem": ("_StorageInfo",),
    f"{_DCP}.planner": (
        *("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData"),
    ),
    "torch": ("Size", "device"),
    "torch.serialization": ("_get_layout",),
    "collections": ("OrderedDict",),
    "pathlib": ("Path", "PosixPath", "PurePosixPath"),
}


class _Unpickler(pickle.Unpickler):
    """Knows the classes of ``.metadata`` and no others."""

    def __init__(self, path: Path, stream: io.BufferedReader) -> None:
        super().__init__(stream)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        raise refused(self.path, f"{module}.{name}")


def check_pickles(folder: Path) -> None:
    """Refuses a sharded checkpoint that would run code when it is loaded; nothing of it is run.

    Args:
        folder: with ``.metadata``, ``common.pt`` and ``*.distcp``.

    Raises:
        CheckpointDamaged: one of its pickles cannot be read, by name of the file.
        CheckpointRefused: one asks for what is no part of a checkpoint, by names of both.
    """
    found = _metadata(folder / ".metadata")
    try:
        for index, stored in found.storage_data.items():
            if isinstance(found.state_dict_metadata[index.fqn], BytesStorageMetadata):
                _check_object(folder / stored.relative_path, index.fqn, stored)
    except (AttributeError, KeyError, TypeError) as error:
        raise damaged(folder / ".metadata", str(error)) from error
    read_pickle(folder / "common.pt")


def _metadata(path: Path) -> Metadata:
    try:
        with open(path, "rb") as stream:
            found = _Unpickler(path, stream).load()
    except CheckpointRefused:
        raise
    except FAULTS as error:
        raise damaged(path, str(error)) from error
    if not isinstance(found, Metadata):
        raise damaged(path, f"a {type(found).__name__}")
    return found


def _check_object(path: Path, name: str, stored: Any) -> None:
    if getattr(stored, "transform_descriptors", None):
        raise damaged(path, f"{name} is compressed")
    with open(path, "rb") as stream:
        stream.seek(stored.offset)
        content = stream.read(stored.length)
    load_object(path, io.BytesIO(content))
