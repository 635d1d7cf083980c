"""Teacher layers in the place of student layers (BERT-of-Theseus)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from megatron.core.utils import unwrap_model
from torch import nn

from glmkd_nemo.distill.teachers import Teacher


@contextmanager
def standing_in(
    model: nn.Module, stand_ins: Mapping[int, tuple[str, range]], teachers: Mapping[str, Teacher]
) -> Iterator[None]:
    """Inside, the given layers of a student run the teacher's layers instead of themselves.

    Args:
        model: a stage of the student, wrapped or not.
        stand_ins: by student layer, the teacher and its layers; those of other stages are left out.
        teachers: by name; their layers stand on the same stage (see ``placement.py``).
    """
    if not stand_ins:
        yield
        return
    student: Any = unwrap_model(model)
    replaced = [(i, *stand_ins[i]) for i in student.layers if i in stand_ins]
    layers = student.decoder.layers
    for i, name, theirs in replaced:
        teacher = teachers[name].model
        first = teacher.layers.start
        layers[i - student.layers.start].stand_ins = [
            teacher.decoder.layers[k - first] for k in theirs
        ]
    try:
        yield
    finally:
        for i, _, _ in replaced:
            layers[i - student.layers.start].stand_ins = []
