"""The random choices that were made when a case was recorded, in place of new ones."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.distill.method import StepContext
from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.flags.random_data import RecordedShuffle


class RecordedNumbers(random.Random):
    """Gives recorded numbers, one after the other."""

    def __init__(self, numbers: list[float]) -> None:
        super().__init__(0)
        self._numbers = list(numbers)

    def random(self) -> float:
        """The next one."""
        return self._numbers.pop(0)


class RecordedLayers(random.Random):
    """Samples the recorded layers."""

    def __init__(self, layers: list[int]) -> None:
        super().__init__(0)
        self._layers = layers

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        """Those of ``population`` that were drawn."""
        return [layer for layer in self._layers if layer in population][:k]


@dataclass(frozen=True)
class RecordedContext(StepContext):
    """Draws what was drawn."""

    case: Case | None = None

    def draws(self, *what: object) -> random.Random:
        """A generator that makes the recorded choice of this purpose."""
        case = self.case
        if case is None:
            return super().draws(*what)
        rng = case.record.get("rng") or {}
        if what[0] == "survival":
            return RecordedNumbers(rng.get("python_random_random_draws", []))
        if what[0] == "rl_kd":
            return RecordedNumbers([x for row in rng["torch_rand_draws"][0] for x in row])
        if what[0] == "random data":
            return RecordedShuffle(case.record)
        if case.translation.draws is not None:
            return case.translation.draws(case.record, case.tensors, what)
        teacher = what[2] if len(what) > 2 and isinstance(what[2], int) else 0
        return RecordedLayers(case.drawn_layers[teacher])


def recorded_context(case: Case) -> RecordedContext:
    """Where training stood when the case was recorded."""
    recorded = case.record.get("args_at_step", {})
    return RecordedContext(
        step=recorded.get("iteration", 0),
        max_steps=recorded.get("train_iters", 1),
        epoch=recorded.get("custom_current_epoch", 0),
        case=None if case.is_plain else case,
    )


def stand_ins_of(context: StepContext) -> dict[int, tuple[str, range]] | None:
    """The recorded choice of teacher layers in the place of student layers, if there is one.

    The reference appends draws past the student's depth until one is a student's layer; only those
    within its depth count.
    """
    case = context.case if isinstance(context, RecordedContext) else None
    rng = (case.record.get("rng") or {}) if case is not None else {}
    if "theseus_tn_layers" not in rng:
        return None
    maps = rng["theseus_teacher_layer_map"]
    found = {}
    for layer, teacher in enumerate(rng["theseus_tn_layers"][: len(maps[0])]):
        if teacher is not None:
            theirs = maps[teacher][layer]
            found[layer] = (f"t{teacher}", range(theirs[0], theirs[-1] + 1))
    return found
