"""The passes of an optimizer step over its micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from glmkd_nemo.distill.method import StepContext
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.engine import schedule


def run_passes(
    step: DistillationStep,
    context: StepContext,
    micro_batches: Sequence[Mapping[str, Any]],
    chunks: list[Any],
    collect: bool = True,
) -> dict[str, Tensor]:
    """Forwards and backwards of one optimizer step; gradients are those of the last pass.

    Args:
        step: the distillation step.
        context: where training stands.
        micro_batches: of this data-parallel rank.
        chunks: this rank's model chunks under Megatron-Core's DDP, gradients zeroed.
        collect: whether to collect values from all ranks, which waits for the device.

    Returns:
        The last pass's values of the parts, and ``loss``; nothing without ``collect``.
    """
    for number in range(step.objective.passes):
        if number > 0:
            for chunk in chunks:
                chunk.zero_grad_buffer()
        step.start(replace(context, forward_pass=number), len(micro_batches))
        schedule.run(step, micro_batches, chunks, forward_only=False, copies=step.batch_factor)
        step.end()
    return step.values() if collect else {}
