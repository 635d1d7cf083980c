"""Taps: named tensors of a forward pass, handed out without touching the model's outputs.

``tap(x, name, layer)`` is the identity. While a :func:`record` context is open it also gives ``x``
to the recorder, if asked for. Names are ours and do not follow Megatron-Core's internals:

======================  ===================  =============================================
name                    shape handed out     what it is
======================  ===================  =============================================
``embedding``           ``[b, s, h]``        sum of the embeddings, input of layer 0
``hidden``              ``[b, s, h]``        output of layer ``i``'s input layernorm
``query key value``     ``[b, n, s, d]``     of layer ``i``, this rank's heads
``scores``              ``[b, n, s, s]``     attention before softmax, masked entries -65504
``probs``               ``[b, n, s, s]``     attention after softmax
``layer_output``        ``[b, s, h]``        what layer ``i`` passes on (residual stream)
``output``              ``[b, s, h]``        output of the final layernorm
``logits``              a ``Logits`` handle  prediction head, not yet multiplied out
``classes``             ``[b, c]``           a task head's logits of the answer choices
``hidden_first ..mean`` ``[b, h]``           of ``hidden``: first position, mean over positions
``output_first ..mean`` ``[b, h]``           of ``output``: the same
======================  ===================  =============================================

Layers are counted from 0 over the whole model; ``embedding``, ``output*``, ``logits`` and
``classes`` have layer ``None``. Under sequence parallelism ``[b, s, h]`` taps are gathered here,
once. An *edit* is a function on such a tensor whose result takes its place in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from megatron.core import tensor_parallel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TapKey = tuple[str, int | None]
Edits = Mapping[TapKey, Callable[[Tensor], Tensor]]

HEADS, VOCAB = "head", "vocab"
SHARDING: dict[str, str | None] = {
    "embedding": None,
    "hidden": None,
    "layer_output": None,
    "output": None,
    "classes": None,
    "hidden_first": None,
    "hidden_mean": None,
    "output_first": None,
    "output_mean": None,
    "query": HEADS,
    "key": HEADS,
    "value": HEADS,
    "scores": HEADS,
    "probs": HEADS,
    "logits": VOCAB,
}
WHOLE_MODEL = ("embedding", "output", "logits", "classes", "output_first", "output_mean")


def _first(x: Tensor) -> Tensor:
    return x[:, 0]


def _mean(x: Tensor) -> Tensor:
    return x.mean(1)


# small vectors of a large tap, the only form in which it has to travel between pipeline stages
DERIVED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "hidden_first": ("hidden", _first),
    "hidden_mean": ("hidden", _mean),
    "output_first": ("output", _first),
    "output_mean": ("output", _mean),
}


class Tap(NamedTuple):
    """A tapped tensor and how tensor parallelism shards it (``None``, ``"head"``)."""

    value: Tensor
    shard: str | None = None

    def map(self, fn: Callable[[Tensor], Tensor]) -> Tap:
        """The same tap with ``fn`` applied to its tensor."""
        return Tap(fn(self.value), self.shard)


def check_keys(keys: Iterable[TapKey], num_layers: int) -> None:
    """Refuses keys that no forward pass will ever serve.

    Raises:
        ValueError: an unknown name, or a layer that the model does not have.
    """
    for name, layer in keys:
        if name not in SHARDING:
            raise ValueError(f"no tap is called {name!r}; there are {', '.join(SHARDING)}.")
        if (layer is None) != (name in WHOLE_MODEL):
            raise ValueError(f"tap {name!r} {'has no' if layer is not None else 'needs a'} layer.")
        if layer is not None and not 0 <= layer < num_layers:
            raise ValueError(f"tap {name!r} of layer {layer}: the model has {num_layers} layers.")


class _Reached(Exception):
    """All wanted taps are there; the rest of the forward pass is not needed."""


class Recorder:
    """Collects the wanted taps of one forward pass of one model (or one pipeline stage of it)."""

    def __init__(
        self,
        want: Iterable[TapKey],
        sequence_parallel: bool,
        replay: bool = False,
        edits: Edits | None = None,
        stop: bool = False,
    ) -> None:
        self.want = frozenset(want)
        self.values: dict[TapKey, Any] = {}
        self._derived: dict[TapKey, list[str]] = {}
        for name, layer in self.want:
            if name in DERIVED:
                self._derived.setdefault((DERIVED[name][0], layer), []).append(name)
        self._sequence_parallel = sequence_parallel
        self._replay, self._stop = replay, stop
        self._edits = edits or {}

    def in_replay(self) -> Recorder:
        """A recorder under which a recompute takes the same branches as the forward did."""
        return Recorder(self.want, self._sequence_parallel, replay=True, edits=self._edits)

    def pass_on(self, x: Any, key: TapKey) -> Any:
        """Edits and keeps ``x`` as far as asked; returns what goes on through the model."""
        if key in self._edits:
            x = self._edited(x, self._edits[key])
        if key in self.want or key in self._derived:
            self._put(key, x)
            if self._stop and self.values.keys() >= self.want:
                raise _Reached
        return x

    def _put(self, key: TapKey, x: Any) -> None:
        """Keeps ``x``; in a replay (recompute in the backward) only the same operations run."""
        name, layer = key
        laid_out = self._lay_out(x, name)
        if key in self.want:
            self._keep(key, laid_out)
        for derived in self._derived.get(key, ()):
            self._keep((derived, layer), laid_out.map(DERIVED[derived][1]))

    def _keep(self, key: TapKey, value: Any) -> None:
        if key in self.values and not self._replay:
            raise RuntimeError(f"tap {key} was reached twice in one forward pass")
        self.values[key] = value

    def _lay_out(self, x: Any, name: str) -> Any:
        if name == "logits":
            return x
        if name == "classes" or SHARDING[name] is not None:
            return Tap(x, SHARDING[name])
        return Tap(self._whole_sequence(x).transpose(0, 1))

    def _whole_sequence(self, x: Tensor) -> Tensor:
        if not self._sequence_parallel:
            return x
        # the loss on it is computed by every rank alike, so the gradient is not to be summed
        whole: Tensor = tensor_parallel.gather_from_sequence_parallel_region(
            x, tensor_parallel_output_grad=False
        )
        return whole

    def _edited(self, x: Tensor, edit: Callable[[Tensor], Tensor]) -> Tensor:
        x = edit(self._whole_sequence(x).transpose(0, 1)).transpose(0, 1).contiguous()
        if self._sequence_parallel:
            x = tensor_parallel.scatter_to_sequence_parallel_region(x)
        return x


_recorder: ContextVar[Recorder | None] = ContextVar("glmkd_nemo_recorder", default=None)


def tap(x: Tensor, name: str, layer: int | None = None) -> Tensor:
    """The identity on ``x``; an open recorder that wants ``(name, layer)`` gets it."""
    recorder = _recorder.get()
    return x if recorder is None else recorder.pass_on(x, (name, layer))


def wanted(name: str, layer: int | None = None) -> bool:
    """Whether an open recorder wants this tap (so that a fused kernel has to step aside)."""
    recorder = _recorder.get()
    return recorder is not None and (name, layer) in recorder.want


def put_logits(logits: Any) -> None:
    """Gives the handle of the prediction head to an open recorder that wants it."""
    recorder = _recorder.get()
    if recorder is not None:
        recorder.pass_on(logits, ("logits", None))


@contextmanager
def record(
    want: Iterable[TapKey],
    sequence_parallel: bool = False,
    edits: Edits | None = None,
    stop: bool = False,
) -> Iterator[dict[TapKey, Any]]:
    """Records the taps of one forward pass run inside the context.

    Args:
        want: keys that this stage of the model will reach.
        sequence_parallel: whether the model runs with it.
        edits: functions ``[b, s, h] -> [b, s, h]`` by key of ``hidden``, ``embedding``, ``output``.
        stop: leave the context as soon as all wanted taps are there, in the midst of a layer if
            need be: the pass then has no output.

    Yields:
        A dict, filled during the pass: :class:`Tap` by key, or a ``Logits`` handle.

    Raises:
        KeyError: on leaving, a wanted key that was never reached (misspelt, or a fused layer).
    """
    recorder = Recorder(want, sequence_parallel, edits=edits, stop=stop)
    token = _recorder.set(recorder)
    try:
        yield recorder.values
    except _Reached:
        pass
    finally:
        _recorder.reset(token)
    if missing := recorder.want - recorder.values.keys():
        raise KeyError(f"never tapped: {sorted(missing, key=str)}")


@contextmanager
def untapped() -> Iterator[None]:
    """Inside, nothing is recorded or edited."""
    token = _recorder.set(None)
    try:
        yield
    finally:
        _recorder.reset(token)


def recomputed(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs ``fn`` without keeping its activations; they are recomputed in the backward.

    Tensors tapped inside keep their gradient: the checkpoint is not re-entrant. The recompute
    takes the same branches as the forward did (the same taps are wanted), with the same dropout.
    """
    recorder = _recorder.get()
    tracker = tensor_parallel.get_cuda_rng_tracker()
    before = tracker.get_states()

    @contextmanager
    def forward() -> Iterator[None]:
        yield

    @contextmanager
    def backward() -> Iterator[None]:
        now = tracker.get_states()
        tracker.set_states(before)
        token = _recorder.set(None if recorder is None else recorder.in_replay())
        try:
            yield
        finally:
            _recorder.reset(token)
            tracker.set_states(now)

    return checkpoint(
        fn, *args, use_reentrant=False, context_fn=lambda: (forward(), backward()), **kwargs
    )


def as_tap(x: Tap | Tensor) -> Tap:
    """A plain tensor as an unsharded tap."""
    return x if isinstance(x, Tap) else Tap(x)
