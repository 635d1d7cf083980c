"""Time of a step from a roofline: products, memory traffic and messages, one after the other.

Per micro-batch and stage: floating-point operations over the assumed share of the peak (``n``
positions reach ``n / (n + half_rows)`` of it), bytes of activations and logits over the memory
bandwidth, tensor-parallel all-reduces over the node's links; but no layer is faster than its
kernels are launched. The pipeline takes ``m (Fs + Ft + Bs) + (p - 1) (max(Ft, Fs) + Bs)`` for
``m`` micro-batches on ``p`` stages (student forward, teacher forward, student backward of the
slowest stage: the shorter forward runs in the bubble that the longer one leaves); then come
data-parallel reduction and optimizer, not overlapped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.plan import losses
from glmkd_nemo.plan.activations import FP32, Tokens, plain_layer
from glmkd_nemo.plan.build import BuiltRank
from glmkd_nemo.plan.hardware import Assumed, Gpu
from glmkd_nemo.plan.layout import Layout
from glmkd_nemo.plan.memory import explicit_layers, layers_of, tokens_of

_TERA, _GIGA = 1e12, 1e9
_BACKWARD = 2  # backward is two products for each of the forward's
_REDUCTIONS = 2  # tensor-parallel all-reduces of a layer, forward; as many backward
_TOUCHED = 3  # of a byte of logits: written once, read twice
_ADAM_TRAFFIC = 28  # bytes per parameter: gradient, weight and two states read, three written


@dataclass(frozen=True)
class Speed:
    """Seconds of a step.

    Attributes:
        student_forward, teacher_forward, student_backward: of one micro-batch on the slowest stage.
        pipeline: of all micro-batches.
        bubble: share of ``pipeline`` in which that stage waits.
        reduction: data-parallel gradients and weights.
        optimizer: Adam.
        samples: of a step.
        tokens: that the models see in a step, answers of an example and passes each on their own.
        flops: of all processes in a step.
    """

    student_forward: float
    teacher_forward: float
    student_backward: float
    pipeline: float
    bubble: float
    reduction: float
    optimizer: float
    samples: int
    tokens: int
    flops: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.pipeline + self.reduction + self.optimizer


@dataclass(frozen=True)
class Machine:
    """What a device does in a second: operations, and bytes of memory and links (to the host's
    memory too); the seconds in which a layer's kernels are launched, and the positions that reach
    half of the operations."""

    operations: float
    memory: float
    intra: float
    inter: float
    launch: float
    half_rows: float
    host: float = math.inf


def machine_of(gpu: Gpu, precision: str, assumed: Assumed) -> Machine:
    """The assumed share of a device's peaks.

    Raises:
        ValueError: a precision that the device does not have.
    """
    if precision not in gpu.peak_tflops:
        known = ", ".join(gpu.peak_tflops)
        raise ValueError(
            f"precision={precision}: this GPU has {known}. Set precision= to one of them, or gpu= "
            "to another device."
        )
    bytes_per_second = _GIGA * assumed.bandwidth
    return Machine(
        gpu.peak_tflops[precision] * _TERA * assumed.mfu,
        gpu.memory_gb_s * bytes_per_second,
        gpu.intra_gb_s * bytes_per_second,
        gpu.inter_gb_s * bytes_per_second,
        assumed.layer_us / 1e6,
        assumed.half_rows,
        gpu.host_gb_s * bytes_per_second or math.inf,
    )


def precision_of(config: GLMConfig) -> str:
    """The precision of a model, as peaks are named by."""
    return "bf16" if config.bf16 else "16" if config.fp16 else "32"


def speed_of(
    ranks: Sequence[BuiltRank],
    model: Mapping[str, Any],
    layout: Layout,
    machine: Machine,
    assumed: Assumed,
    of_teachers: Mapping[str, Machine] | None = None,
) -> Speed:
    """Estimates a step.

    Args:
        ranks: one of each stage, in order.
        model: the section ``model`` at this layout.
        layout: processes and batch.
        machine: what a device does in a second.
        assumed: share of predicted positions.
        of_teachers: the same as ``machine`` at each teacher's precision.
    """
    tokens = tokens_of(model, ranks[0], layout)
    share = losses.predicted_share(model, assumed.predicted)
    hosted = of_teachers or {}
    stages = [_Stage(rank, model, layout, tokens, machine, share, hosted) for rank in ranks]
    slowest = max(stages, key=lambda stage: stage.total)
    micro = slowest.forward, slowest.teacher, slowest.backward
    pipeline = ranks[0].passes * pipeline_seconds(layout.micro_batches, layout.pp, *micro)
    in_step = ranks[0].passes * layout.micro_batches  # micro-batches of a data-parallel rank
    return Speed(
        *micro,
        pipeline,
        1 - in_step * slowest.total / pipeline,
        max(_reduction(rank, layout, machine, tokens.element) for rank in ranks),
        max(rank.main_parameters for rank in ranks) * _ADAM_TRAFFIC / machine.memory,
        layout.total,
        in_step * layout.dp * tokens.count,
        sum(s.flops for s in stages) * in_step * layout.tp * layout.dp,
    )


def pipeline_seconds(
    micro_batches: int, stages: int, forward: float, teacher: float, backward: float
) -> float:
    """Seconds of a pass over all micro-batches, see the head of this file.

    Args:
        micro_batches, stages: ``m`` and ``p``.
        forward, teacher, backward: seconds of a micro-batch on a stage: Fs, Ft and Bs.
    """
    work = micro_batches * (forward + teacher + backward)
    return work + (stages - 1) * (max(teacher, forward) + backward)


class _Stage:
    """Seconds of one micro-batch on a stage."""

    def __init__(
        self,
        rank: BuiltRank,
        model: Mapping[str, Any],
        layout: Layout,
        tokens: Tokens,
        machine: Machine,
        predicted: float,
        of_teachers: Mapping[str, Machine],
    ) -> None:
        self.rank, self.layout, self.tokens, self.machine = rank, layout, tokens, machine
        terms = (model.get("distill") or {}).get("terms") or {}
        last = rank.stage == layout.pp - 1
        share = losses.rows_of_head(rank.parts, terms, predicted) if last else 0.0
        self.rows = share * tokens.count
        found = losses.of_stage(
            rank.parts, terms, rank.config, rank.teacher_configs, rank.stage, tokens, predicted
        )
        self.teacher = self.flops = 0.0
        self._student(found.logits + found.kept)
        for name in rank.teacher_configs:
            self._teacher(name, of_teachers.get(name, machine))
        self.total = self.forward + self.teacher + self.backward

    def _student(self, of_losses: int) -> None:
        config, machine = self.rank.config, self.machine
        layers = layers_of(config, self.rank.stage)
        count, launch = len(layers), len(layers) * machine.launch
        again = config.recompute == "full"
        forward = count * layer_flops(config, self.tokens)
        products = forward + head_flops(config, self.rows)
        explicit = explicit_layers(self.rank, None)
        kept = sum(plain_layer(config, self.tokens, i in explicit) for i in layers)
        traffic = kept / machine.memory  # a kept byte is written once, and read twice later
        self.forward = max(launch, self._seconds(products, config, count) + traffic)
        work = _BACKWARD * products + again * forward
        seconds = self._seconds(work, config, (1 + again) * count) + 2 * traffic
        seconds += _TOUCHED * of_losses / machine.memory
        self.backward = max((_BACKWARD + again) * launch, seconds)
        self.flops += products + work

    def _teacher(self, name: str, machine: Machine) -> None:
        config = self.rank.teacher_configs[name]
        tokens = self.tokens.of(config)
        count = len(layers_of(config, self.rank.stage))
        flops = count * layer_flops(config, tokens) + head_flops(config, self.rows)
        explicit = bool(explicit_layers(self.rank, name))
        touched = count * plain_layer(config, tokens, explicit)
        seconds = self._seconds(flops, config, count, machine) + touched / machine.memory
        brought = self.rank.offloaded.get(name, 0) / machine.host
        self.teacher += max(count * machine.launch, seconds, brought)
        self.flops += flops

    def _seconds(
        self, flops: float, config: GLMConfig, layers: int, machine: Machine | None = None
    ) -> float:
        """Operations, all-reduces between tensor-parallel ranks, and the message to a neighbour."""
        tokens, layout, machine = self.tokens.of(config), self.layout, machine or self.machine
        state = tokens.count * tokens.element * config.hidden_size
        ring = 2 * (layout.tp - 1) / layout.tp * state / machine.intra
        reached = tokens.count / (tokens.count + machine.half_rows)
        seconds = flops / (machine.operations * reached) + layers * _REDUCTIONS * ring
        if layout.pp > 1:
            near = 2 * layout.tp * layout.dp <= layout.per_node
            flat = layout.tp if layout.sequence_parallel else 1
            seconds += state / flat / (machine.intra if near else machine.inter)
        return seconds


def layer_flops(config: GLMConfig, tokens: Tokens) -> float:
    """Operations of a layer's forward on one rank: products with weights, and with each other.

    (The prefix mask is no pattern that a kernel could skip: all pairs of positions count.)
    """
    h, inner, f = config.hidden_size, config.inner_size, config.ffn_hidden_size
    w = config.num_attention_heads * config.kv_channels
    weights = 3 * h * w + w * inner + 2 * inner * f * config.bottleneck_ffns
    if config.bottleneck_size is not None:
        weights += 2 * h * inner * config.tensor_model_parallel_size  # every rank does all of it
    pairs = 2 * tokens.length * w
    return 2.0 * tokens.count * (weights + pairs) / config.tensor_model_parallel_size


def head_flops(config: GLMConfig, rows: float) -> float:
    """Operations of the prediction head's forward on ``rows`` positions, on one rank."""
    columns = config.padded(config.output_size) / config.tensor_model_parallel_size
    return 2.0 * rows * columns * config.word_embedding_size


def _reduction(rank: BuiltRank, layout: Layout, machine: Machine, element: int) -> float:
    """Reduce-scatter of fp32 gradients and all-gather of weights, or an all-reduce of gradients."""
    if layout.dp == 1:
        return 0.0
    near = layout.tp * layout.dp <= layout.per_node
    sharded = rank.main_parameters < rank.parameters
    per_parameter = FP32 + element if sharded else 2 * FP32
    moved = rank.parameters * per_parameter * (layout.dp - 1) / layout.dp
    return moved / (machine.intra if near else machine.inter)
