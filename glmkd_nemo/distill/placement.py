"""Which pipeline stage holds a tensor, and where a teacher's layers go so that partners meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from glmkd_nemo.distill.objective import WeightedPart
from glmkd_nemo.distill.taps import TapKey
from glmkd_nemo.models.config import even_split

# what only the last stage of a model has
FINAL = ("output", "output_first", "output_mean", "logits", "classes")


class LayoutRefused(ValueError):
    """What cannot be had under pipeline parallelism, said before training with the remedy."""


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
    """The stage on which a part is computed: the last of those that have its student tensors.

    Tensors of earlier stages are carried there (``carry.py``). Where the teacher's final states or
    logits are needed it is the last stage, which alone has them.
    """
    if any(key[0] in FINAL for key in planned.part.teacher):
        return len(student_split) - 1
    return max(stage_of(key, student_split) for key in planned.part.student)


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
    beside: Mapping[int, range] | None = None,
) -> list[int]:
    """Layers of a teacher per stage, as even as the parts allow.

    A teacher's tensor can travel to a later stage with its activation, never back: so each stage
    must have run the teacher up to the last layer that its own parts, or earlier ones, ask for.

    Args:
        teacher: its name.
        parts: of all terms.
        student_split: layers of the student per stage.
        teacher_layers: the teacher's depth.
        beside: teacher layers that must live on the stage of a student layer, by student layer.

    Returns:
        Number of layers per stage.

    Raises:
        ValueError: ``beside`` and the parts cannot both be had.
    """
    stages = len(student_split)
    split = even_split(teacher_layers, stages) if teacher_layers >= stages else [0] * stages
    ends = [sum(split[: k + 1]) for k in range(stages)]
    for planned in parts:
        if planned.teacher == teacher:
            home = home_of(planned, student_split)
            layers = [layer for _, layer in planned.part.teacher if layer is not None]
            ends[home] = max([ends[home], *(layer + 1 for layer in layers)])
    for k in range(1, stages):
        ends[k] = max(ends[k], ends[k - 1])
    if beside:
        ends = _beside(teacher, beside, student_split)
        _check_reached(teacher, parts, student_split, ends)
    ends[-1] = teacher_layers
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _beside(teacher: str, beside: Mapping[int, range], student_split: list[int]) -> list[int]:
    """Ends of a teacher's stages so that its layers stand in for student layers of the same."""
    ends, layer = [], 0
    for layers in student_split:
        layer += layers
        if layer - 1 not in beside:
            raise ValueError(f"teacher {teacher}: nothing stands in for student layer {layer - 1}")
        ends.append(beside[layer - 1].stop)
    return ends


def _check_reached(
    teacher: str, parts: Iterable[WeightedPart], student_split: list[int], ends: list[int]
) -> None:
    for planned in parts:
        home = home_of(planned, student_split)
        for name, layer in planned.part.teacher if planned.teacher == teacher else ():
            if layer is not None and layer >= ends[home]:
                raise LayoutRefused(
                    f"{planned.name} needs the teacher's {name} of layer {layer} on pipeline stage "
                    f"{home}, but its layers stand in for the student's and end at {ends[home]} "
                    "there: set pipeline_model_parallel_size=1, or use another teacher for it."
                )
