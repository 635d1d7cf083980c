"""Random states as a function of (seed, step, place): nothing about them needs saving.

A resumed run therefore draws the same dropout masks as an uninterrupted one.
"""

from __future__ import annotations

import hashlib

import torch
from megatron.core import parallel_state, tensor_parallel


def _mix(*parts: int) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % (2**31 - 2**16)


def _seed_all(value: int) -> None:
    torch.manual_seed(value)
    # also the tracker's states: equal over TP outside sharded regions, different inside
    tensor_parallel.model_parallel_cuda_manual_seed(value)


def seed_for_weights(seed: int) -> None:
    """Seeds the initial weights: equal over TP and DP ranks, different over pipeline stages."""
    _seed_all(_mix(seed, -1, parallel_state.get_pipeline_model_parallel_rank()))


def seed_for_step(seed: int, step: int) -> None:
    """Seeds the dropout of one training step.

    Equal over the TP ranks of a replica, different over pipeline stages and data-parallel ranks.
    """
    stage = parallel_state.get_pipeline_model_parallel_rank()
    _seed_all(_mix(seed, step, stage, parallel_state.get_data_parallel_rank()))
