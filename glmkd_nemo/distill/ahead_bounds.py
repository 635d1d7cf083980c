"""How far teachers may be ahead of their student, from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from glmkd_nemo.distill.method import Method
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.teachers import Teacher
from glmkd_nemo.models.config import GLMConfig

SECTION = "model.run_ahead"
ALONE = "there is no teacher."


class Bounds(NamedTuple):
    """Bounds of the queue of taps.

    Attributes:
        micro_batches: most micro-batches whose taps may wait for the student; 0: none.
        next_step: whether those of the next optimizer step may be among them.
    """

    micro_batches: int = 0
    next_step: bool = False


OFF = Bounds()


def bounds_from_section(
    section: Mapping[str, Any] | None,
    config: GLMConfig,
    objective: Objective,
    teachers: Mapping[str, Teacher],
) -> Bounds:
    """What ``model.run_ahead`` asks for; where it leaves it open, what is exact and helps.

    Args:
        section: of the configuration.
        config: the student's.
        objective: the terms.
        teachers: by name.

    Raises:
        ValueError: it asks for what would not be exact, or for nothing.
    """
    asked = dict(section or {})
    micro_batches, next_step = asked.get("micro_batches"), asked.get("next_step")
    if micro_batches is not None and micro_batches < 0:
        raise ValueError(f"{SECTION}.micro_batches={micro_batches} must not be negative.")
    why_not = _never(config, objective, teachers)
    if micro_batches and why_not:
        raise ValueError(f"{SECTION}.micro_batches={micro_batches}: {why_not} Set it to null.")
    stages = config.pipeline_model_parallel_size
    helps = stages > 1 and not torch.cuda.is_available()
    if micro_batches is None:
        micro_batches = 2 * stages if helps and not why_not else 0
    why_not_next = _not_into_the_next_step(objective)
    if next_step and (not micro_batches or why_not_next):
        why_not_next = why_not_next or why_not or f"{SECTION}.micro_batches is 0."
        raise ValueError(f"{SECTION}.next_step=true: {why_not_next} Set it to null.")
    into_the_next = not why_not_next if next_step is None else bool(next_step)
    return Bounds(micro_batches, into_the_next and micro_batches > 0)


def check_unused(section: Mapping[str, Any] | None) -> None:
    """Refuses a section that asks for something where there is no teacher.

    Raises:
        ValueError: with the key.
    """
    for key, value in dict(section or {}).items():
        if value:
            raise ValueError(f"{SECTION}.{key}={value}: {ALONE} Set it to null.")


def _never(config: GLMConfig, objective: Objective, teachers: Mapping[str, Teacher]) -> str:
    """Why teachers cannot be ahead at all, as a sentence; empty where they can."""
    if not teachers:
        return ALONE
    if learning := [name for name, teacher in teachers.items() if teacher.trainable]:
        return f"the teacher {learning[0]} learns, and is another one after each step."
    if objective.passes > 1:
        return "a term goes over the micro-batches of a step several times."
    if objective.possible_replacements():
        return "a teacher's layers stand in for the student's."
    if not torch.cuda.is_available() and config.pipeline_model_parallel_size == 1:
        return "without pipeline stages or CUDA there is no waiting time."
    if torch.cuda.is_available() and config.sequence_parallel:
        return "with sequence parallelism Megatron-Core has one buffer for both models."
    return ""


def _not_into_the_next_step(objective: Objective) -> str:
    """Why the next step's parts are not known yet; empty where they are."""
    for name, method in objective.methods.items():
        assert isinstance(method, Method)
        if type(method).observe is not Method.observe:
            return f"what the term {name} does next depends on the losses of this step."
    return ""
