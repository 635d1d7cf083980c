"""Which pipeline stage holds a tensor, and where a teacher's layers go so that partners meet."""

from __future__ import annotations

from collections.abc import Iterable

from glmkd_nemo.distill.objective import WeightedPart
from glmkd_nemo.distill.taps import TapKey
from glmkd_nemo.models.config import even_split


def stage_of(key: TapKey, split: list[int]) -> int:
    """The stage that reaches a tap, for a model with ``split[k]`` layers on stage ``k``."""
    name, layer = key
    if layer is None:
        return 0 if name == "embedding" else len(split) - 1
    end = 0
    for stage, layers in enumerate(split):
        end += layers
        if layer < end:
            return stage
    raise ValueError(f"tap {name!r} of layer {layer}: the model has {end} layers.")


def home_of(planned: WeightedPart, student_split: list[int]) -> int:
    """The stage on which a part is computed: the one that has the student's tensors.

    Raises:
        ValueError: they live on several stages.
    """
    stages = {stage_of(key, student_split) for key in planned.part.student}
    if len(stages) != 1:
        raise ValueError(
            f"{planned.name} needs student layers of pipeline stages {sorted(stages)} at once: "
            "set pipeline_model_parallel_size=1 for this method."
        )
    return stages.pop()


def tapped_layers(parts: Iterable[WeightedPart], teacher: str | None) -> set[int]:
    """Layers of a teacher (of the student: ``None``) of which a part may read a tensor."""
    keys: set[TapKey] = set()
    for planned in parts:
        if teacher is None:
            keys.update(planned.part.student)
        elif planned.teacher == teacher:
            keys.update(planned.part.teacher)
    return {layer for _, layer in keys if layer is not None}


def place_teacher(
    teacher: str,
    parts: Iterable[WeightedPart],
    student_split: list[int],
    teacher_layers: int,
) -> list[int]:
    """Layers of a teacher per stage, as even as the parts allow.

    A teacher's tensor can travel to a later stage with its activation, never back: so each stage
    must have run the teacher up to the last layer that its own parts, or earlier ones, ask for.

    Returns:
        Number of layers per stage.

    Raises:
        ValueError: an early stage would need the teacher's last hidden states or logits.
    """
    stages = len(student_split)
    split = even_split(teacher_layers, stages) if teacher_layers >= stages else [0] * stages
    ends = [sum(split[: k + 1]) for k in range(stages)]
    for planned in parts:
        home = home_of(planned, student_split)
        if planned.teacher != teacher:
            continue
        for name, layer in planned.part.teacher:
            if layer is not None:
                ends[home] = max(ends[home], layer + 1)
            elif name != "embedding" and home != stages - 1:
                raise ValueError(
                    f"{planned.name} compares a student tensor of pipeline stage {home} with the "
                    f"teacher's {name}, which only the last stage has: set "
                    "pipeline_model_parallel_size=1 for this method."
                )
    for k in range(1, stages):
        ends[k] = max(ends[k], ends[k - 1])
    ends[-1] = teacher_layers
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
