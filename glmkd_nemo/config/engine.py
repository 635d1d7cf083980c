"""The section ``engine``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class EngineSection:
    """What trains the model; from ``zero_stage`` on, the keys are DeepSpeed's.

    Attributes:
        name: megatron (Megatron-Core) or deepspeed.
        overlap_grad_reduce: reduce gradients over data-parallel ranks during the backward pass,
            bucket by bucket; every weight must get a gradient in every step.
        bucket_size: parameters in a bucket (null: 40 million, more with more than 40 ranks).
        average_in_collective: divide by the number of ranks in the collective itself, not before.
        zero_stage: what data-parallel ranks divide among them: 0 nothing, 1 optimizer state,
            2 gradients too, 3 weights too (a frozen teacher's stay whole).
        offload_optimizer: keep the optimizer state in the host's memory, and step there.
        offload_parameters: keep the weights there (stage 3).
        config: further keys of DeepSpeed's own configuration.
    """

    name: str = "megatron"
    overlap_grad_reduce: bool | None = None
    bucket_size: int | None = None
    average_in_collective: bool | None = None
    zero_stage: int | None = None
    offload_optimizer: bool | None = None
    offload_parameters: bool | None = None
    config: dict[str, Any] | None = None
