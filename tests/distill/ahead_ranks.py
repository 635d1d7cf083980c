"""Steps with teachers ahead of their student, on one rank or several: nothing may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from torch import Tensor

from glmkd_nemo.distill.ahead_bounds import OFF, Bounds
from glmkd_nemo.distill.micro_batch import Pass
from glmkd_nemo.distill.passes import run_passes
from glmkd_nemo.distill.pipeline import sum_over_stages
from tests.distill.kit import Bench, batch

SAMPLES = [[0, 1], [2, 3], [1, 2], [3, 0]]
BOUNDS = {
    "same_step": Bounds(3),
    "next_step": Bounds(4, True),
    "one": Bounds(1, True),
    "unforeseen": Bounds(4, True),  # other data come than were announced
}
STOPS = {"unforeseen": 1}
STEPS = 3


def run(
    name: str, bounds: Bounds, sp: bool = False, stop: int | None = None
) -> tuple[list[Any], Bench]:
    """Values and gradients of three optimizer steps.

    Args:
        name: of a method.
        bounds: how far teachers may be ahead.
        sp: sequence parallelism.
        stop: a step that is taken on other data than was foreseen.
    """
    bench = Bench(name, sp=sp, ahead=bounds)
    ddp = DistributedDataParallel(
        bench.student.config, DistributedDataParallelConfig(), bench.student
    )
    found = []
    for number in range(STEPS):
        now = coming(bench, number, number if number != stop else 6)
        following = coming(bench, number + 1, number + 1) if number < STEPS - 1 else None
        ddp.zero_grad_buffer()
        values = run_passes(bench.step, now, [ddp], following if bounds.next_step else None)
        bench.step.ahead.wait_for_stages()
        sum_over_stages(bench.objective)
        finalize_model_grads([ddp])
        found.append(({n: float(v) for n, v in values.items()}, gradients(bench)))
        for parameter in bench.parameters():
            parameter.data -= 0.01 * parameter.main_grad
    return found, bench


def gradients(bench: Bench) -> dict[str, Tensor]:
    """Of this rank's shard."""
    return {n: p.main_grad.clone() for n, p in bench.student.named_parameters() if p.requires_grad}


def coming(bench: Bench, step: int, data: int) -> Pass:
    """A step of the method's busiest time, on rotated samples."""
    context = dataclasses.replace(bench.context, step=bench.context.step + step)
    order = SAMPLES[data % 4 :] + SAMPLES[: data % 4]
    return Pass(context, [batch(rows) for rows in order], data)


def wrong(found: list[Any], expected: list[Any]) -> list[str]:
    """What is not the same, bit by bit."""
    lines = []
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours[0] != theirs[0]:
            lines.append(f"step {step}: values {ours[0]} for {theirs[0]}")
        if ours[1].keys() != theirs[1].keys():
            lines.append(f"step {step}: other gradients")
        differ = [n for n in theirs[1] if not ours[1][n].equal(theirs[1][n])]
        lines += [f"step {step}: gradient of {name}" for name in differ]
    return lines


def everything(cases: Mapping[str, Sequence[str]], sp: bool = False) -> dict[str, list[str]]:
    """By case, what is wrong with it on any rank, in the layout that is set up.

    Args:
        cases: keys of :data:`BOUNDS`, by method.
        sp: sequence parallelism.
    """
    checks: dict[str, list[str]] = {}
    for name, keys in cases.items():
        expected = {stop: run(name, OFF, sp, stop)[0] for stop in {STOPS.get(key) for key in keys}}
        for key in keys:
            bounds, stop = BOUNDS[key], STOPS.get(key)
            found, bench = run(name, bounds, sp, stop)
            ahead = bench.step.ahead
            lines = wrong(found, expected[stop])
            if not 0 < ahead.peak <= bounds.micro_batches:
                lines.append(f"{ahead.peak} micro-batches in a queue of {bounds}")
            if ahead.fills and bench.step.stage == 0 and not ahead.filled:
                lines.append("the first stage waited all the same")
            checks[f"{name}-{key}"] = lines
    return _of_all_ranks(checks)


def _of_all_ranks(checks: dict[str, list[str]]) -> dict[str, list[str]]:
    if not dist.is_initialized():
        return checks
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, checks)
    return {
        key: [f"rank {r}: {x}" for r, one in enumerate(found) for x in one[key]] for key in checks
    }
