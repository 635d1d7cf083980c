"""Relative errors of a run against the recorded numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.run import Outcome

TOLERANCE = 1e-5
NOTHING = 1e-7  # a gradient with a smaller norm is compared absolutely


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


def errors(case: Case, outcome: Outcome) -> list[Error]:
    """All errors of a case."""
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
            ours = outcome.values[part[0]] * (outcome.weights[part[0]] if part[1] else 1.0)
        elif name == "Train/hard_loss":
            ours = outcome.values["hard_label"]
        else:  # counts, and the sum that is compared as the loss
            continue
        found.append(Error("component", name, scalar_error(ours, float(reference))))
    return found


def _gradients(case: Case, outcome: Outcome) -> list[Error]:
    found = []
    statistics = case.record["grad_stats"]
    whole = {n.removeprefix("grad/") for n in case.tensors if n.startswith("grad/")}
    names = [*statistics, *sorted(whole - statistics.keys())]  # heads have no statistics
    for name in names:
        norm, _, _, stride = statistics.get(name, (0.0, 0.0, 0, 1))
        kind = "grad" if name in whole else "gradsample"
        reference = case.tensors[f"{kind}/{name}"]
        ours = outcome.gradients.get(name)
        if ours is None:  # it has none, or nothing but zeros
            error = float("inf") if float(reference.norm()) >= NOTHING else 0.0
            found.append(Error("gradient", f"{name} (missing)", error))
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


def worst(found: list[Error], kind: str) -> float:
    """The largest error of a kind; 0 where there is none."""
    return max((e.value for e in found if e.kind == kind), default=0.0)
