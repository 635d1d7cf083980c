"""Megatron-Core without CUDA.

Megatron-Core asks torch for CUDA devices, streams and random states by name. Where no CUDA
device is present, :func:`install` answers these questions with the CPU, so that the same code
(tensor, pipeline and sequence parallelism, DDP, distributed optimizer, checkpoints) runs on gloo.
Where CUDA is present it does nothing. Every patch of the project for this purpose is in this file.

Only functions that are called at build time or with an explicit device are wrapped: there is no
``TorchFunctionMode``, which would cost on every operator of every step.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch

_MARK = "_glmkd_cpu_installed"
_CPU = torch.device("cpu")
_FACTORIES = (
    *("arange", "empty", "empty_like", "empty_strided", "eye", "full", "full_like", "linspace"),
    *("ones", "ones_like", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like"),
    *("randperm", "tensor", "as_tensor", "zeros", "zeros_like"),
)


def install() -> bool:
    """Let Megatron-Core run on the CPU; idempotent, and a no-op where CUDA is available.

    Must run before ``megatron.core`` is imported (``import glmkd_nemo`` does so); a Megatron-Core
    that was imported earlier is corrected too.

    Returns:
        True if the patches are active (no CUDA), False if nothing was done.
    """
    if torch.cuda.is_available():
        return False
    if not getattr(torch.cuda, _MARK, False):
        _patch_factories()
        _patch_tensor()
        _patch_cuda_module()
        _patch_random()
        setattr(torch.cuda, _MARK, True)
    return True


def _is_cuda(device: Any) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Wrap a torch factory so that ``device="cuda"`` means the CPU."""

    @functools.wraps(factory)
    def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs["device"] = _CPU
        return factory(*args, **kwargs)

    return wrapper


def _patch_factories() -> None:
    # TorchScript finds its builtins by identity: register the wrappers under the same operator
    from torch.jit import _builtins

    for name in _FACTORIES:
        original = getattr(torch, name)
        wrapper = _on_cpu(original)
        operator = _builtins._find_builtin(original)
        if operator is not None:
            _builtins._register_builtin(wrapper, operator)
        setattr(torch, name, wrapper)


def _patch_tensor() -> None:
    """``Tensor.cuda`` and ``Tensor.to("cuda")`` stay on the CPU, ``Tensor.type`` as mcore asks."""
    to, type_ = torch.Tensor.to, torch.Tensor.type

    @functools.wraps(to)
    def to_cpu(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and _is_cuda(args[0]):
            args = (_CPU, *args[1:])
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs["device"] = _CPU
        return to(self, *args, **kwargs)

    @functools.wraps(type_)
    def type_for_mcore(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = type_(self, *args, **kwargs)
        # mcore's optimizers assert on the CUDA spelling; everybody else gets torch's own answer
        if not args and not kwargs and isinstance(result, str):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("megatron."):
                return result.replace("torch.", "torch.cuda.", 1)
        return result

    def identity(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self

    for name, function in (("to", to_cpu), ("type", type_for_mcore), ("cuda", identity)):
        setattr(torch.Tensor, name, function)


class _NoStream:
    """A CUDA stream or event that is always ready."""

    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = _CPU

    def __enter__(self) -> _NoStream:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def query(self) -> bool:
        """Whether all work is done: always."""
        return True

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        return None

    wait_stream = wait_event = synchronize = record = wait = _nothing

    def record_event(self, event: Any = None) -> _NoStream:
        """An event that has already happened."""
        return event if event is not None else _NoStream()


def _answering(make: Callable[[], Any]) -> Callable[..., Any]:
    # a function object per name: torch.compile has a rule for each and refuses one under two names
    def answer(*args: Any, **kwargs: Any) -> Any:
        return make()

    return answer


def _none() -> None:
    return None


def _patch_cuda_module() -> None:
    cuda, nvtx = torch.cuda, torch.cuda.nvtx
    cuda.Stream = cuda.Event = _NoStream  # type: ignore[assignment, misc]
    cuda.current_device = _answering(lambda: _CPU)
    for name in ("stream", "current_stream", "default_stream"):
        setattr(cuda, name, _answering(_NoStream))
    for name in ("set_device", "synchronize", "set_stream"):
        setattr(cuda, name, _answering(_none))
    # Lightning and mcore mark ranges for a profiler that a CPU build of torch does not have
    for name in ("range_push", "range_pop", "mark"):
        setattr(nvtx, name, _answering(_none))


class _CpuGenerators:
    """Stands for ``torch.cuda.default_generators``: every device has the CPU's generator."""

    def __getitem__(self, index: Any) -> torch.Generator:
        return torch.default_generator


def _call_now(function: Callable[[], Any], **kwargs: Any) -> None:
    function()


def _patch_random() -> None:
    """CUDA random states are the CPU generator's, as are the ones in mcore's tracker."""

    def get_rng_state(device: Any = "cuda") -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(new_state: torch.Tensor, device: Any = "cuda") -> None:
        torch.set_rng_state(new_state)

    def manual_seed(seed: int) -> None:
        torch.default_generator.manual_seed(int(seed))

    for function in (get_rng_state, set_rng_state, manual_seed):
        for module in (torch.cuda, torch.cuda.random):
            setattr(module, function.__name__, function)
    torch.cuda.default_generators = _CpuGenerators()  # type: ignore[assignment]
    torch.cuda._lazy_call = _call_now  # type: ignore[assignment]
    random = sys.modules.get("megatron.core.tensor_parallel.random")
    if random is not None:  # it bound the name before we came
        random._lazy_call = _call_now  # type: ignore[attr-defined]
    # the tracker warns when drawing "on the GPU" moved the CPU's state: here that is the point
    logging.getLogger("megatron.core.tensor_parallel.random").addFilter(_not_the_cpu_state_warning)


def _not_the_cpu_state_warning(record: logging.LogRecord) -> bool:
    return "CPU RNG state changed" not in record.getMessage()
