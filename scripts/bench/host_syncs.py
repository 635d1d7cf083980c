"""Counts places where a step would wait for the device, or does.

Without a GPU every operator is looked at as it is dispatched: those that return numbers or sizes to
Python which depend on values would wait on a GPU. With one, CUDA itself tells.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
HOST = "host value"  # no wait: torch's Adam keeps its step number on the host
WAITING = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "argwhere"),
    *("nonzero_numpy", "masked_select", "bincount", "histc", "_linalg_check_errors"),
    *("unique_dim", "unique_consecutive", "unique_dim_consecutive", "_unique", "_unique2"),
    *("tensor_split", "segment_reduce"),
}
Key = tuple[str, str, str]  # part of the step, operator, place


class HostSyncs(TorchDispatchMode):
    """Counts, while it is entered, what would wait.

    Args:
        current: the part of the step that runs now.

    Attributes:
        found: times by part, operator and place.
    """

    def __init__(self, current: Callable[[], str] = lambda: "") -> None:
        super().__init__()
        self.current, self.found = current, Counter[Key]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if waits(func, args, kwargs):
            self.note(func.overloadpacket.__name__)
        return func(*args, **kwargs)

    def note(self, what: str) -> None:
        """One more of ``what``, here."""
        where = place()
        self.found[self.current(), HOST if where.startswith("torch/optim") else what, where] += 1


def waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator of ATen waits for the device to know its result or its result's size."""
    name = func.overloadpacket.__name__
    if name in WAITING:
        return True
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"):
        masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
        filled = len(masks) == len(args[1]) and len(args) > 2 and args[2].numel() == 1
        return bool(masks) and not filled  # one number under a mask is filled in without looking
    return False


def place() -> str:
    """The innermost line of this project or of Megatron-Core that is being run now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        for part in ("/torch/optim/", "/megatron/core/"):
            if part in file:
                return f"{part.strip('/')}/{file.split(part)[1]}:{frame.f_lineno}"
        if file.startswith(str(ROOT / "glmkd_nemo")):
            return f"{Path(file).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@contextmanager
def _python_side(syncs: HostSyncs) -> Iterator[None]:
    """Also counts what reaches no operator on a CPU: lists, NumPy, and tensors made of numbers."""
    kept = {name: getattr(Tensor, name) for name in ("tolist", "numpy", "cpu")}
    made = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if name in kept or (kwargs.get("device") is not None and not _is_tensor(args)):
                syncs.note(name)
            return call(*args, **kwargs)

        return counted

    for owner, calls in ((Tensor, kept), (torch, made)):
        for name, call in calls.items():
            setattr(owner, name, counting(name, call))
    try:
        yield
    finally:
        for owner, calls in ((Tensor, kept), (torch, made)):
            for name, call in calls.items():
                setattr(owner, name, call)


def _is_tensor(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], Tensor)


@contextmanager
def _told_by_cuda(syncs: HostSyncs) -> Iterator[None]:
    """CUDA warns of each wait; the warning's place is known as it is given."""

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if "synchronizing CUDA" in str(message):
            syncs.note("wait")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def counted(run: Any, steps: int) -> list[tuple[str, str, str, float]]:
    """Waits of ``run.step()`` after one to warm up.

    Args:
        run: has ``step()`` and ``parts``.
        steps: how many to look at.

    Returns:
        Part of the step, operator, place, times in a step; :data:`HOST` does not wait.
    """
    run.step()
    syncs = HostSyncs(lambda: run.parts.current)
    if torch.cuda.is_available():
        with _told_by_cuda(syncs):
            for _ in range(steps):
                run.step()
    else:
        with _python_side(syncs), syncs:
            for _ in range(steps):
                run.step()
    return [(*key, times / steps) for key, times in sorted(syncs.found.items())]
