"""The micro-batches of a step, and one of them as student and teachers read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from megatron.core import parallel_state

from glmkd_nemo.distill.method import Batch, StepContext, batch_of
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.taps import Edits
from glmkd_nemo.distill.views import stacked


class Pass(NamedTuple):
    """The micro-batches of an optimizer step.

    Attributes:
        context: of the step.
        micro_batches: of this data-parallel rank.
        number: of the global batch in the data, so that another one is not taken for it.
    """

    context: StepContext
    micro_batches: Sequence[Mapping[str, Any]]
    number: int | None = None


def numbered(context: StepContext, number: int, count: int) -> StepContext:
    """The context of a rank's micro-batch, ``number`` of ``count``."""
    rank = parallel_state.get_data_parallel_rank()
    return replace(context, micro_batch=rank * count + number)


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
