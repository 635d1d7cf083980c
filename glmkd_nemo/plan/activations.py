"""Bytes of activations that the layers here keep from the forward pass to the backward pass.

The count follows Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models" (arXiv 2205.05198, section 4), whose plain layer keeps ``s b h (34 + 5 a s / h)`` bytes at
two bytes per element. Two things differ here:

- attention is a fused kernel (torch's SDPA): it keeps its output and a logarithm per row in place
  of the ``5 a s / h``; a prefix mask that the kernel does not know as lengths becomes an additive
  ``[b, 1, s, s]`` bias, one for all layers;
- a layer whose scores are tapped computes attention step by step: scores in the model's type, the
  softmax in fp32, and what dropout leaves of it.

With ``h`` the width, ``f`` that of the feed-forward network, ``w = heads x head width``, ``t`` the
tensor-parallel size and ``e`` the bytes of an element, a layer keeps per token

    e (4 h + 5 w / t + 2 f / t) + 2 h    [with sequence parallelism: h / t in place of h]

that is: inputs of both layernorms and both column-parallel products (4 h), queries, keys, values,
the kernel's output and its copy for the projection (5 w), what goes into and comes out of the
activation function (2 f), and two dropout masks of one byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from glmkd_nemo.models.config import GLMConfig

FP32 = 4
_STATISTICS = 2 * FP32  # mean and reciprocal deviation of a layernorm, per position


@dataclass(frozen=True)
class Tokens:
    """A micro-batch as the model sees it.

    Attributes:
        batch: sequences.
        length: positions of each.
        element: bytes of an element of the model's type.
        on_cpu: without CUDA: torch's kernels there keep other masks.
    """

    batch: int
    length: int
    element: int
    on_cpu: bool = False

    def of(self, config: GLMConfig) -> Tokens:
        """The same as another model sees it, in its own type."""
        return replace(self, element=config.params_dtype.itemsize)

    @property
    def count(self) -> int:
        """Positions of all sequences."""
        return self.batch * self.length

    @property
    def dropout_mask(self) -> int:
        """Bytes of an element of a dropout mask: booleans, on the CPU factors."""
        return self.element if self.on_cpu else 1


@dataclass(frozen=True)
class _Widths:
    """Elements per token of one rank: residual stream, inner stream, heads, feed-forward."""

    outer: float
    inner: float
    heads: float
    ffn: float


def _widths(config: GLMConfig) -> _Widths:
    t = config.tensor_model_parallel_size
    flat = t if config.sequence_parallel else 1
    heads = config.num_attention_heads * config.kv_channels / t
    ffn = config.ffn_hidden_size / t
    return _Widths(config.hidden_size / flat, config.inner_size / flat, heads, ffn)


def attention_core(config: GLMConfig, tokens: Tokens, explicit: bool) -> int:
    """What lies between the queries, keys and values of a layer and the input of its projection.

    Args:
        config: of the model.
        tokens: the micro-batch.
        explicit: whether the layer's scores are tapped.
    """
    e, w = tokens.element, _widths(config).heads
    heads = config.num_attention_heads / config.tensor_model_parallel_size
    square = tokens.batch * tokens.length**2
    if not explicit:
        output = 0 if tokens.on_cpu else e * w  # there it is what the projection reads
        return int(tokens.count * (output + FP32 * heads))
    dropped = tokens.dropout_mask if config.attention_dropout > 0 else 0
    probs = FP32 + dropped + (e if e < FP32 or dropped else 0)  # softmax, mask, what is multiplied
    scaled = 2 if config.attention_scale != 1.0 else 1  # keys, and queries where it changes them
    return int(tokens.count * scaled * e * w + square * heads * (e + probs))


def plain_layer(config: GLMConfig, tokens: Tokens, explicit: bool) -> int:
    """Bytes that a layer keeps without recompute, see the head of this file."""
    e, widths = tokens.element, _widths(config)
    dropped = tokens.dropout_mask if config.hidden_dropout > 0 else 0
    flat = config.tensor_model_parallel_size if config.sequence_parallel else 1
    attention = 2 * e * widths.outer + 4 * e * widths.heads + dropped * widths.inner
    ffn = e * (2 * widths.inner + 2 * widths.ffn) + dropped * widths.inner
    norms = 2 * _STATISTICS / flat
    if config.bottleneck_size is not None:  # more networks, and the projection back
        ffn = ffn * config.bottleneck_ffns + 2 * e * widths.inner
    rest = tokens.count * (attention + ffn + norms)
    return int(rest) + attention_core(config, tokens, explicit)


def kept_by_layer(config: GLMConfig, tokens: Tokens, explicit: bool, recompute: bool) -> int:
    """Bytes that a layer keeps until its backward.

    Args:
        config: of the model; ``config.recompute`` says what is computed again.
        tokens: the micro-batch.
        explicit: whether the layer's scores are tapped.
        recompute: whether this layer is among those that are recomputed.
    """
    if config.recompute == "full" and recompute:
        return int(tokens.count * tokens.element * _widths(config).outer)
    whole = plain_layer(config, tokens, explicit)
    if config.recompute == "selective":
        return whole - attention_core(config, tokens, explicit)
    return whole


def passing_of_layer(config: GLMConfig, tokens: Tokens, explicit: bool, trains: bool) -> int:
    """The most that a layer needs for a moment, on top of what is kept.

    Args:
        config, tokens, explicit: as of :func:`kept_by_layer`.
        trains: with a backward, where a recomputed layer is whole for a moment, and the gradients
            of the feed-forward network's tensors are alive beside them; else a forward only.
    """
    e, widths = tokens.element, _widths(config)
    gradients = int(tokens.count * e * (2 * widths.ffn + 2 * widths.outer))
    if not trains:
        squares = attention_core(config, tokens, explicit) if explicit else 0
        return int(gradients + tokens.count * e * 2 * widths.outer) + squares
    if config.recompute == "full":
        return gradients + plain_layer(config, tokens, explicit)
    if config.recompute == "selective":
        return max(gradients, attention_core(config, tokens, explicit))
    return gradients


def gradient_of_head(config: GLMConfig, tokens: Tokens) -> int:
    """Bytes of the tied head's gradient, before it is added to the fp32 one (the largest weight's).

    Args:
        config, tokens: the model and the micro-batch.
    """
    rows = config.padded_vocab_size // config.tensor_model_parallel_size
    return rows * config.word_embedding_size * tokens.element


def kept_by_ends(config: GLMConfig, tokens: Tokens, first: bool, last: bool) -> int:
    """Bytes that the embedding, the final layernorm and the head's input keep.

    Args:
        config, tokens: the model and the micro-batch.
        first, last: which of them the stage has.
    """
    e, widths = tokens.element, _widths(config)
    dropped = tokens.dropout_mask if config.embedding_dropout > 0 else 0
    kept = tokens.count * dropped * widths.outer if first else 0.0
    if last:
        kept += tokens.count * (e * (widths.outer + config.hidden_size) + _STATISTICS)
    return int(kept) + tokens.element * tokens.batch * tokens.length**2  # the mask, as a bias
