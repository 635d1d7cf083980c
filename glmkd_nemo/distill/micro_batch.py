"""A micro-batch as student and teachers read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.distill.method import Batch, StepContext, batch_of
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.taps import Edits
from glmkd_nemo.distill.views import stacked


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch, its views and the edits of the forward passes on it.

    Attributes:
        context: its step, and its number.
        batches: its views, see ``Method.views``.
        whole: all views, stacked: what the models read.
        edits: changes of the student's tensors.
        teacher_edits: changes of the teachers' tensors, by teacher.
    """

    context: StepContext
    batches: list[Batch]
    whole: Batch
    edits: Edits
    teacher_edits: Mapping[str, Edits]

    @property
    def sizes(self) -> list[int]:
        """Sequences of each view."""
        return [len(batch.input_ids) for batch in self.batches]


def prepared(fields: Mapping[str, Any], context: StepContext, objective: Objective) -> MicroBatch:
    """A micro-batch of the data loader with all that the objective draws for it."""
    batches = objective.views_of(batch_of(fields), context)
    edits, teacher_edits = objective.edits(context, batches[0])
    return MicroBatch(context, batches, stacked(batches), edits, teacher_edits)
