"""The passes of an optimizer step over its micro-batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from glmkd_nemo.distill.micro_batch import Pass
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.engine import schedule


def run_passes(
    step: DistillationStep,
    now: Pass,
    chunks: list[Any],
    following: Pass | None = None,
    collect: bool = True,
) -> dict[str, Tensor]:
    """Forwards and backwards of one optimizer step; gradients are those of the last pass.

    Args:
        step: the distillation step.
        now: where training stands, and the micro-batches of this data-parallel rank.
        chunks: this rank's model chunks under Megatron-Core's DDP, gradients zeroed.
        following: the next step's, where teachers may be ahead of their student by so much.
        collect: whether to collect values from all ranks, which waits for the device.

    Returns:
        The last pass's values of the parts, and ``loss``; nothing without ``collect``.
    """
    for number in range(step.objective.passes):
        if number > 0:
            for chunk in chunks:
                chunk.zero_grad_buffer()
        turn = now._replace(context=replace(now.context, forward_pass=number))
        step.start(turn.context, len(turn.micro_batches))
        step.ahead.look_ahead(chunks[0], [turn] if following is None else [turn, following])
        schedule.run(
            step,
            turn.micro_batches,
            chunks,
            forward_only=False,
            copies=step.batch_factor,
            communicator=step.ahead.communicator,
        )
        step.end()
    return step.values() if collect else {}
