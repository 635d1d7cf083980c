"""Teachers whose weights stay in the host's memory and come to the device layer by layer.

Each layer's weights are packed into one pinned buffer, so that one copy brings them. Two buffers on
the device take turns: while a layer runs out of one, the next layer's weights arrive in the other,
on a stream of their own. All offloaded teachers share these two, so several teachers need no more
than the two largest layers. Embedding, final layernorm and head stay on the device: losses read the
head after the pass.

Nothing that is maintained fits: Megatron-Core's and Transformer Engine's offloading is for what a
backward needs, FSDP's policy for parameters that it has sharded, and accelerate's hooks copy each
tensor by itself while the device waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

BUFFERS = 2
_ALIGNED = 256  # bytes; what kernels and Transformer Engine's fused products like to start at


class Mover(Protocol):
    """Memory and copies of a device. A *point* is a place in the order of the device's work."""

    def pinned(self, size: int) -> Tensor:
        """``[size]`` bytes of the host that the device can copy from by itself."""

    def buffer(self, size: int) -> Tensor:
        """``[size]`` bytes of the device."""

    def now(self) -> Any:
        """The point after everything that was queued for computing so far."""

    def copy(self, source: Tensor, target: Tensor, after: Any) -> Any:
        """Queues a copy that starts after a point; returns the point at which it is done."""

    def wait(self, point: Any) -> None:
        """Lets everything that is queued for computing from now on start after a point."""


class CudaMover:
    """A CUDA device, with a stream for copies.

    Raises:
        ValueError: there is no CUDA device.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise ValueError(
                "model.teachers.*.offload=true needs a CUDA device: without one, weights are in "
                "the host's memory anyway. Set it to false."
            )
        self._stream = torch.cuda.Stream()

    def pinned(self, size: int) -> Tensor:
        """See :class:`Mover`."""
        return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)

    def buffer(self, size: int) -> Tensor:
        """See :class:`Mover`."""
        return torch.empty(size, dtype=torch.uint8, device=torch.cuda.current_device())

    def now(self) -> Any:
        """See :class:`Mover`."""
        return torch.cuda.current_stream().record_event()

    def copy(self, source: Tensor, target: Tensor, after: Any) -> Any:
        """See :class:`Mover`."""
        self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            return self._stream.record_event()

    def wait(self, point: Any) -> None:
        """See :class:`Mover`."""
        torch.cuda.current_stream().wait_event(point)


class LayerBuffers:
    """The two buffers on the device that all offloaded teachers of a rank share.

    Args:
        mover: the device's.

    Attributes:
        size: bytes of each: the largest layer there is.
    """

    def __init__(self, mover: Mover) -> None:
        self.mover, self.size = mover, 0
        self._buffers: list[Tensor] = []
        self._free: list[Any] = [None] * BUFFERS

    def reserve(self, size: int) -> None:
        """Makes room for a layer of so many bytes; called before the first pass."""
        assert not self._buffers, "a teacher was loaded after a pass"
        self.size = max(self.size, size)

    def fetch(self, source: Tensor, place: int) -> tuple[Tensor, Any]:
        """Starts bringing a layer; gives the part of a buffer that it comes to, and when."""
        if not self._buffers:
            self._buffers = [self.mover.buffer(self.size) for _ in self._free]
        target = self._buffers[place][: len(source)]
        free = self.mover.now() if self._free[place] is None else self._free[place]
        return target, self.mover.copy(source, target, free)

    def release(self, place: int) -> None:
        """A buffer may be written again as soon as what has been queued so far is done."""
        self._free[place] = self.mover.now()


class OffloadedLayers:
    """The layers of a stage of a frozen model, their weights in the host's memory.

    Between passes the parameters are views of that memory, so that they can be read as ever.

    Args:
        layers: in the order in which they run; their weights may still be anywhere.
        buffers: shared with other models.

    Raises:
        ValueError: layers that share weights.
    """

    def __init__(self, layers: Sequence[nn.Module], buffers: LayerBuffers) -> None:
        self._buffers, self._count = buffers, 0
        self._layers = [_Packed(layer, buffers.mover) for layer in layers]
        owned = [id(p) for layer in self._layers for p in layer.parameters]
        if len(owned) != len(set(owned)):
            raise ValueError(
                "offload=true: the layers of this model share one set of weights (share_layers), "
                "which is no more than what offloading keeps on the device: set offload=false."
            )
        self._coming: tuple[Tensor, Any] | None = None
        self._here: int | None = None
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(partial(self._enter, number))
            buffers.reserve(len(self._layers[number].host))

    @contextmanager
    def streamed(self, count: int) -> Iterator[None]:
        """Inside, the first ``count`` layers can run, each once and in order."""
        self._count = count
        if count:
            self._coming = self._buffers.fetch(self._layers[0].host, 0)
        try:
            yield
        finally:
            self._leave()
            self._coming, self._count = None, 0

    def _enter(self, number: int, layer: nn.Module, inputs: Any) -> None:
        """The layer before has been queued: its buffer takes the layer after this one."""
        assert number < self._count, f"offloaded layer {number} runs outside of its pass"
        assert self._coming is not None
        target, arrived = self._coming
        self._leave()
        self._buffers.mover.wait(arrived)
        self._layers[number].bind(target)
        self._here = number
        if number + 1 < self._count:
            following = self._layers[number + 1].host
            self._coming = self._buffers.fetch(following, (number + 1) % BUFFERS)

    def _leave(self) -> None:
        if self._here is not None:
            self._layers[self._here].bind(self._layers[self._here].host)
            self._buffers.release(self._here % BUFFERS)
            self._here = None


def packed(layer: nn.Module) -> tuple[list[int], int]:
    """Where each parameter of a layer starts in a buffer, and the buffer's size; in bytes."""
    starts, size = [], 0
    for parameter in layer.parameters():
        starts.append(size)
        size += -(-parameter.numel() * parameter.element_size() // _ALIGNED) * _ALIGNED
    return starts, size


class _Packed:
    """A layer's parameters as views of one buffer, in the host's memory or on the device."""

    def __init__(self, layer: nn.Module, mover: Mover) -> None:
        self.parameters = list(layer.parameters())
        self._starts, size = packed(layer)
        self.host = mover.pinned(size)
        values = [parameter.detach() for parameter in self.parameters]
        self.bind(self.host)
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data.copy_(value)

    def bind(self, buffer: Tensor) -> None:
        """Makes the parameters views of a buffer that holds their values."""
        for parameter, start in zip(self.parameters, self._starts, strict=True):
            size = parameter.numel() * parameter.element_size()
            view = buffer[start : start + size].view(parameter.dtype).view(parameter.shape)
            parameter.data = view
