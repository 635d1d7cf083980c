"""Teachers that run partly, at another precision, or out of the host's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from glmkd_nemo.distill.method import StepContext
from glmkd_nemo.distill.teachers import Teacher
from tests.distill.steps import Bench

# the first term needs what the teacher's first layer gets, the second one its logits, later
TERMS: dict[str, dict[str, Any]] = {
    "low": {"method": "tinybert", "layers": "embedding"},
    "soft": {"method": "kd", "schedule": {"kind": "stage", "begin": 0.5}},
    "hard": {"method": "hard"},
}
STEPS = [StepContext(step=step, max_steps=10) for step in (0, 6, 1)]
SAMPLES = [[0, 1], [2, 3]]
Outcome = tuple[dict[str, float], dict[str, Tensor]]


@contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """The global numbers of the layers that run, in order."""
    ran: list[int] = []

    def note(layer: Any, inputs: Any) -> None:
        ran.append(layer.layer_number - 1)

    handles = [layer.register_forward_pre_hook(note) for layer in model.decoder.layers]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def lower(teacher: Teacher, dtype: torch.dtype) -> None:
    """Makes a teacher one of another precision."""
    teacher.model.to(dtype)
    teacher.config.params_dtype = teacher.config.pipeline_dtype = dtype


def changing_needs(dtype: torch.dtype) -> tuple[list[Outcome], list[list[int]]]:
    """Steps of one model in which other parts of the teacher are needed, and what ran of it."""
    bench, found, ran = Bench(TERMS, sp=False, recompute=None), [], []
    lower(bench.teacher, dtype)
    for context in STEPS:
        with counted(bench.teacher.model) as layers:
            values = bench.run(SAMPLES, context)
        found.append((values, {name: g.clone() for name, g in bench.gradients().items()}))
        ran.append(list(layers))
    return found, ran


def on_two_stages(
    reference: list[Outcome],
    dtype: torch.dtype,
    compare: Callable[[Outcome, Outcome], list[str]],
) -> list[str]:
    """What is wrong with the same steps on two stages; a left message would upset the next step."""
    found, ran = changing_needs(dtype)
    wrong = [line for pair in zip(found, reference, strict=True) for line in compare(*pair)]
    of_stages: list[Any] = [None, None]
    dist.all_gather_object(of_stages, ran)
    if of_stages != [[[0, 0], [0, 1, 0, 1], [0, 0]], [[], [2, 3, 2, 3], []]]:
        wrong.append(f"layers that ran: {of_stages}")
    return wrong
