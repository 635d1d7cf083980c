"""ALP-KD: Attention-Based Layer Projection for Knowledge Distillation (arXiv 2012.14022).

The first position of each student layer against the attention-weighted mean of all teacher layers.
As in GLMKD: outputs of the layers' input layernorms from layer 1 up, and the final output; the mean
squared error averages over the width. The paper's lambda is the term's weight: GLMKD's option
``alp_kd_lambda`` has no effect, so its numbers are those of weight 1, and there is no such option.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from glmkd_nemo.distill.layer_attention import attend, layers_of
from glmkd_nemo.distill.layer_choice import state
from glmkd_nemo.distill.losses import mse
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext, Taps
from glmkd_nemo.distill.taps import TapKey


@dataclass
class AlpKDConfig:
    """No options."""


class AlpKD(Method):
    """Each layer of the student attends to all layers of the teacher."""

    Config = AlpKDConfig
    teacher: ModelShape

    def __init__(self, config: AlpKDConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        if student.hidden != teacher.hidden:
            raise ValueError(
                f"alp_kd compares layers as they are, but the student is {student.hidden} wide and "
                f"the teacher {teacher.hidden}: use universal_kd, which projects both."
            )

    def parts(self, context: StepContext) -> list[Part]:
        """``hidden_states.i`` by student layer, from layer 1 up."""
        # Each part reads all student layers, though its loss needs one: so all are computed on the
        # last stage of a pipeline, where all of the teacher's layers are known.
        mine, its = _states(self.student), _states(self.teacher)
        return [
            Part(f"hidden_states.{i}", partial(_loss, key, its), mine, its)
            for i, key in enumerate(mine)
        ]


def _states(model: ModelShape) -> tuple[TapKey, ...]:
    return tuple(state(k, model.layers, "_first") for k in range(1, model.layers + 1))


def _loss(
    mine: TapKey, its: tuple[TapKey, ...], student: Taps, teacher: Taps, batch: Batch
) -> Tensor:
    query = student[mine].value
    return mse(query, attend(query, layers_of(teacher, its)))


METHOD = AlpKD
