"""What a teacher reads where the student has a vocabulary map (GLMD, arXiv 2306.06625)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from megatron.core.utils import get_attr_wrapped_model

from glmkd_nemo.distill.method import Batch, Method
from glmkd_nemo.distill.objective import Objective


def read_by(teacher: str, batch: Batch, objective: Objective, student: Any) -> Batch:
    """The batch as a teacher gets it: where one of its terms asks for it
    (``Method.maps_teacher_input``), with the tokens that the student's map leaves.

    Args:
        teacher: its name.
        batch: of the student.
        objective: all terms.
        student: this rank's stage, wrapped or not; only the first one reads tokens.

    Raises:
        ValueError: it is asked for, and the student has no map.
    """
    terms = [name for name, term in objective.terms.items() if term.teacher == teacher]
    methods = [m for name in terms if isinstance(m := objective.methods[name], Method)]
    if not any(method.maps_teacher_input for method in methods):
        return batch
    model: Any = get_attr_wrapped_model(student, "vocab_map", return_model_obj=True)
    if model.config.mapped_vocab_size is None:
        raise ValueError(
            "teacher_input_map asks for the student's tokens, but the student has no vocabulary "
            "map: set model.vocab_map.size, or teacher_input_map=false."
        )
    if not model.pre_process:
        return batch
    return replace(batch, input_ids=model.vocab_map.replaced(batch.input_ids))
