"""Relative errors of a run against the recorded numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor

from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.run import Outcome

TOLERANCE = 1e-5
NOTHING = 1e-7  # a gradient with a smaller norm is compared absolutely
ZERO = 1e-13  # a gradient in float64 that would be 0 without rounding


class Error(NamedTuple):
    """A relative error of one quantity."""

    kind: str  # logits, loss, component, gradient
    name: str
    value: float


def scalar_error(x: float, reference: float) -> float:
    """``|x - ref| / max(|ref|, 1e-3)``."""
    return abs(x - reference) / max(abs(reference), 1e-3)


def tensor_error(x: Tensor, reference: Tensor) -> float:
    """``||x - ref|| / ||ref||``; where the reference is nothing, 0 if ours is too."""
    x, reference = x.double(), reference.double()
    norm = float(reference.norm())
    difference = float((x - reference).norm())
    if norm < NOTHING:
        return 0.0 if difference <= NOTHING else difference / NOTHING
    return difference / norm


def errors(case: Case, outcomes: Sequence[Outcome]) -> list[Error]:
    """All errors of a case, of all its steps."""
    found = []
    for number, (step, outcome) in enumerate(zip(case.steps, outcomes, strict=True)):
        label = f"step {number}: " if len(outcomes) > 1 else ""
        found += [e._replace(name=f"{label}{e.name}") for e in _errors(step, outcome)]
    return found


def _errors(case: Case, outcome: Outcome) -> list[Error]:
    found = [
        Error("logits", who, tensor_error(outcome.logits[who], reference))
        for who, reference in case.logits().items()
    ]
    total = case.record["loss" if case.is_plain else "total_loss"]
    found.append(Error("loss", "loss", scalar_error(outcome.values["loss"], float(total))))
    return found + _components(case, outcome) + _gradients(case, outcome)


def _components(case: Case, outcome: Outcome) -> list[Error]:
    found = []
    for name, reference in case.record.get("components", {}).items():
        part = None if case.is_plain else case.our_part(name)
        if part is not None:
            ours = _sum_of_parts(outcome, *part)
            if ours is None:  # left out, as its weight is 0 now
                continue
        elif name == "Train/hard_loss":
            ours, reference = outcome.values["hard_label"], case.record["hard_loss"][0]
        else:  # counts, and the sum that is compared as the loss
            continue
        found.append(Error("component", name, scalar_error(ours, float(reference))))
    return found


def _sum_of_parts(outcome: Outcome, pattern: str, weighted: bool, without: float) -> float | None:
    """The value behind a logged one; ``None`` if its term has other parts only in this step.

    Raises:
        KeyError: the term has no part at all.
    """
    names = [name for name in outcome.weights if fnmatchcase(name, pattern)]
    term = pattern.partition("/")[0]
    if not names and not any(name.startswith(f"{term}/") for name in outcome.weights):
        raise KeyError(f"no part of ours is called {pattern}")
    weights = outcome.weights if weighted else dict.fromkeys(names, 1.0)
    return sum(outcome.values[n] * weights[n] for n in names) / without if names else None


def _gradients(case: Case, outcome: Outcome) -> list[Error]:
    found = []
    statistics = case.record["grad_stats"]
    whole = {n.removeprefix("grad/") for n in case.tensors if n.startswith("grad/")}
    names = [*statistics, *sorted(whole - statistics.keys())]  # heads have no statistics
    for name in names:
        norm, _, _, stride = statistics.get(name, (0.0, 0.0, 0, 1))
        kind = "grad" if name in whole else "gradsample"
        ours = outcome.gradients.get(name)
        reference = case.tensors.get(f"{kind}/{name}")
        if reference is None:  # of a step there are statistics only
            size = 0.0 if ours is None else float(ours.double().norm())
            found.append(Error("gradient", f"{name} (norm)", scalar_error(size, float(norm))))
            continue
        if ours is None:  # it has none, or nothing but zeros
            error = float("inf") if float(reference.norm()) >= NOTHING else 0.0
            found.append(Error("gradient", f"{name} (missing)", error))
            continue
        if _is_rounding(case, float(norm), ours):
            found.append(Error("gradient", f"{name} (0, recorded as {float(norm):.0e})", 0.0))
            continue
        entries = ours if name in whole else ours.flatten()[:: int(stride)]
        found.append(Error("gradient", name, tensor_error(entries, reference)))
        if float(norm) >= NOTHING:
            error = scalar_error(float(ours.double().norm()), float(norm))
            found.append(Error("gradient", f"{name} (norm)", error))
    for name in sorted(outcome.gradients.keys() - set(names)):
        size = float(torch.linalg.vector_norm(outcome.gradients[name]))
        found.append(Error("gradient", f"{name} (none recorded)", size / NOTHING * TOLERANCE))
    return found


def _is_rounding(case: Case, norm: float, ours: Tensor) -> bool:
    """Whether the recorded gradient is but the rounding of one that is 0.

    It has to be below the last digit of the whole gradient, and ours nothing in float64: the angles
    between samples, say, do not change with the last layernorm's bias.
    """
    last_digit = torch.finfo(torch.float32).eps * float(case.record.get("grad_norm") or 0)
    return NOTHING <= norm < last_digit and float(ours.double().norm()) < ZERO


def worst(found: list[Error], kind: str) -> float:
    """The largest error of a kind; 0 where there is none."""
    return max((e.value for e in found if e.kind == kind), default=0.0)
