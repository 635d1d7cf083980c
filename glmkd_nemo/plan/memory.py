"""Memory of one rank at its peak, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glmkd_nemo.distill.placement import tapped_layers
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.plan import losses
from glmkd_nemo.plan.activations import (
    Tokens,
    gradient_of_head,
    kept_by_ends,
    kept_by_layer,
    passing_of_layer,
)
from glmkd_nemo.plan.build import BuiltRank
from glmkd_nemo.plan.hardware import GIB, Assumed
from glmkd_nemo.plan.layout import Layout

_LINK_BUFFERS = 4  # one to send and one to receive, forward and backward
EXPLICIT = ("scores", "probs")
_SEQUENCES = {"record": 10, "wsc": 10, "copa": 2}  # of a training example: one for each answer


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank at the peak of a step.

    Attributes:
        weights, gradients, optimizer: of the student, counted on real modules and optimizer.
        teachers: weights of the teachers on the device, counted too.
        activations: of the student, all micro-batches under way, and what a layer needs for a
            moment.
        logits: of student and teachers with what the losses make of them, and of losses on taps.
        teacher_activations: what a teacher's forward needs for a moment, and its tapped tensors.
        carried: tensors between pipeline stages.
        overhead: CUDA context, communicators, fragmentation.
    """

    weights: int
    gradients: int
    optimizer: int
    teachers: int
    activations: int
    logits: int
    teacher_activations: int
    carried: int
    overhead: int

    @property
    def static(self) -> int:
        """What is there all the time."""
        return self.weights + self.gradients + self.optimizer + self.teachers

    @property
    def passing(self) -> int:
        """What a step needs in passing."""
        return self.activations + self.logits + self.teacher_activations + self.carried

    @property
    def peak(self) -> int:
        """All of it."""
        return self.static + self.passing + self.overhead

    @property
    def largest(self) -> str:
        """Name of the largest part."""
        values = dataclasses.asdict(self)
        return max(values, key=lambda name: values[name])


def tokens_of(
    model: Mapping[str, Any], rank: BuiltRank, layout: Layout, on_cpu: bool = False
) -> Tokens:
    """A micro-batch as the models see it, at its largest.

    Args:
        model: the section ``model``.
        rank: of the student.
        layout: its micro-batch size counts.
        on_cpu: whether it runs without CUDA.
    """
    dtype = rank.config.params_dtype
    element = torch.empty((), dtype=dtype, device="meta").element_size()
    task = model.get("task") or {}
    length = int(task.get("seq_length") or model["encoder_seq_length"])
    choices = _SEQUENCES.get(str(task.get("name")), 1)
    if choices > 2:
        choices = int(task.get("max_choices") or choices)
    return Tokens(layout.micro * choices * rank.copies, length, element, on_cpu)


def memory_of(
    rank: BuiltRank,
    model: Mapping[str, Any],
    layout: Layout,
    assumed: Assumed,
    on_cpu: bool = False,
) -> RankMemory:
    """Estimates a built rank's memory.

    Args:
        rank: what :func:`~glmkd_nemo.plan.build.build_rank` built.
        model: the section ``model`` at this layout.
        layout: processes and batch; the micro-batch size may be another one than it was built with.
        assumed: overheads.
        on_cpu: a process without CUDA: no context, no communicators.
    """
    config = rank.config
    tokens = tokens_of(model, rank, layout, on_cpu)
    terms = (model.get("distill") or {}).get("terms") or {}
    share = losses.predicted_share(model, assumed.predicted)
    loss = losses.of_stage(
        rank.parts, terms, config, rank.teacher_configs, rank.stage, tokens, share
    )
    in_flight = layout.in_flight(rank.stage)
    kept, passing = _student(rank, tokens)
    teacher = max(
        (_teacher(rank, n, c, tokens.of(c)) for n, c in rank.teacher_configs.items()), default=0
    )
    found = RankMemory(
        weights=rank.weights,
        gradients=rank.gradients,
        optimizer=rank.optimizer,
        teachers=sum(rank.teacher_weights.values()) + rank.layer_buffers,
        activations=in_flight * (kept + loss.kept) + passing,
        logits=loss.logits,
        teacher_activations=teacher + loss.teacher_taps,
        carried=_links(rank, tokens) + in_flight * loss.carried if layout.pp > 1 else 0,
        overhead=0,
    )
    return dataclasses.replace(found, overhead=_overhead(found, rank, layout, assumed, on_cpu))


def explicit_layers(rank: BuiltRank, teacher: str | None) -> set[int]:
    """Layers of a model whose attention is computed step by step, as its scores are tapped."""
    parts = [
        dataclasses.replace(planned, part=dataclasses.replace(planned.part, student=s, teacher=t))
        for planned in rank.parts
        for s in [tuple(key for key in planned.part.student if key[0] in EXPLICIT)]
        for t in [tuple(key for key in planned.part.teacher if key[0] in EXPLICIT)]
    ]
    return tapped_layers(parts, teacher)


def layers_of(config: GLMConfig, stage: int) -> range:
    """The layers of a stage."""
    first = sum(config.split[:stage])
    return range(first, first + config.split[stage])


def _student(rank: BuiltRank, tokens: Tokens) -> tuple[int, int]:
    """Bytes kept per micro-batch, and needed for a moment."""
    config, explicit = rank.config, explicit_layers(rank, None)
    layers = layers_of(config, rank.stage)
    count = len(layers) if config.recompute_layers is None else config.recompute_layers
    last = rank.stage == len(config.split) - 1
    kept = kept_by_ends(config, tokens, rank.stage == 0, last)
    kept += sum(
        kept_by_layer(config, tokens, i in explicit, n < count) for n, i in enumerate(layers)
    )
    passing = [passing_of_layer(config, tokens, i in explicit, True) for i in layers]
    if rank.stage == 0 or last:
        passing.append(gradient_of_head(config, tokens))
    return kept, max(passing)


def _teacher(rank: BuiltRank, name: str, config: GLMConfig, tokens: Tokens) -> int:
    explicit = explicit_layers(rank, name)
    layers = layers_of(config, rank.stage)
    most = (passing_of_layer(config, tokens, i in explicit, False) for i in layers)
    return max(most, default=0)


def _links(rank: BuiltRank, tokens: Tokens) -> int:
    """Buffers of what goes from stage to stage, of the student and of the teachers."""
    configs = [rank.config, *rank.teacher_configs.values()]
    flat = rank.config.tensor_model_parallel_size if rank.config.sequence_parallel else 1
    widths = sum(config.hidden_size * config.params_dtype.itemsize for config in configs) / flat
    return int(_LINK_BUFFERS * tokens.count * widths)


def _overhead(
    memory: RankMemory, rank: BuiltRank, layout: Layout, assumed: Assumed, on_cpu: bool
) -> int:
    lost = assumed.fragmentation * memory.passing
    if on_cpu:
        return int(lost)
    links = 2 * len(rank.teacher_configs) if layout.pp > 1 else 0
    communicators = sum(size > 1 for size in (layout.tp, layout.pp, layout.dp)) + links
    fixed = assumed.context_gib + communicators * assumed.communicator_gib
    return int(fixed * GIB + lost)
