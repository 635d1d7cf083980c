"""One rank of a run that does not exist: torch's fake process group, and tensors without memory.

Real modules, Megatron-Core's DDP and its optimizer are built in here exactly as on the machine that
is planned for, so that what is counted is what will be allocated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore

_FACTORIES = (
    *("arange", "empty", "empty_strided", "eye", "full", "linspace", "ones"),
    *("rand", "randint", "randn", "randperm", "tensor", "as_tensor", "zeros"),
)
_TYPE_NAMES = {torch.float32: "Float", torch.float16: "Half", torch.bfloat16: "BFloat16"}


class OnMeta(TorchFunctionMode):
    """Every new tensor is on the meta device, also one that is asked for on a CUDA device or CPU.

    (``with torch.device("meta")`` leaves explicit devices alone, and Megatron-Core is explicit.)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Redirects factories, and answers ``Tensor.type()`` as Megatron-Core's optimizers ask."""
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _FACTORIES:
            given["device"] = "meta"
        if name == "type" and len(args) == 1 and not given:
            # without CUDA, engine/cpu.py adds the ".cuda" that Megatron-Core asserts on
            module = "torch.cuda" if torch.cuda.is_available() else "torch"
            return f"{module}.{_TYPE_NAMES[args[0].dtype]}Tensor"
        return func(*args, **given)


@contextmanager
def simulated_rank(rank: int, world: int, tp: int, pp: int) -> Iterator[None]:
    """Megatron-Core's groups as ``rank`` of ``world`` processes has them; nothing communicates.

    Inside, tensors are created on the meta device. Whatever process groups there were before must
    have been destroyed.

    Args:
        rank: of all processes.
        world: number of processes.
        tp, pp: tensor- and pipeline-parallel size.
    """
    assert not dist.is_initialized(), "a simulated rank needs a process without process groups"
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        with ExitStack() as stack:
            # gloo groups, which Megatron-Core wants for checkpoints, would wait for other processes
            create = parallel_state.create_group
            stack.enter_context(
                mock.patch.object(
                    parallel_state,
                    "create_group",
                    lambda *args, **kwargs: create(*args, **{**kwargs, "backend": "fake"}),
                )
            )
            # the optimizer asks all ranks which parameter groups they have
            stack.enter_context(mock.patch.object(dist, "all_gather_object", _everyone_as_me))
            parallel_state.initialize_model_parallel(tp, pp)
            stack.enter_context(OnMeta())
            yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _everyone_as_me(found: list[Any], mine: Any, group: Any = None) -> None:
    found[:] = [mine] * len(found)
