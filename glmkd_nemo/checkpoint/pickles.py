"""Reading PyTorch files of strangers: tensors and plain values, and no code of theirs runs.

PyTorch's own restricted unpickler (``weights_only``) with a short list of what saves of GLM and
DeepSpeed hold besides: numpy's random state, saved options, and loss scalers, which become inert.
"""

from __future__ import annotations

import argparse
import pickle
import re
from mmap import MAP_PRIVATE, MAP_SHARED
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import set_default_mmap_options

from glmkd_nemo.checkpoint.sharded import CheckpointDamaged

_ZIP = b"PK\x03\x04"
_REMAP = 1 << 28  # bytes
_SCALERS = ("LossScaler", "DynamicLossScaler", "LossScalerBase")
_INERT = (
    *(f"fp16.loss_scaler.{name}" for name in _SCALERS),
    *(f"deepspeed.runtime.fp16.loss_scaler.{name}" for name in _SCALERS),
    "deepspeed.runtime.zero.config.ZeroStageEnum",
)
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since numpy 2


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

    Files in PyTorch's old format (before 1.6) cannot be mapped and are read whole.

    Args:
        path: of the file.

    Raises:
        CheckpointDamaged: the file is truncated, or none of PyTorch's.
        ValueError: it asks for something that is no part of a checkpoint; nothing of it was run.
    """
    try:
        with open(path, "rb") as stream:
            mappable = stream.read(len(_ZIP)) == _ZIP
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error


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


def _refused(path: str | Path, message: str) -> ValueError:
    found = re.search(r"(?:GLOBAL|for class|function|of type)\s+`?([\w.]+\.[\w.]+)", message)
    if found is None:
        return _damaged(path, message)
    return ValueError(
        f"{path}: its pickle asks for {found[1]}, which is no part of a checkpoint; nothing of it "
        "was run. Do not trust this file: get it from its authors, or have them save the weights "
        "alone (safetensors)."
    )


def _damaged(path: str | Path, message: str) -> CheckpointDamaged:
    first = message.strip().split("\n")[0][:160]
    return CheckpointDamaged(f"{path} is truncated or no file of PyTorch ({first}): copy it again.")
