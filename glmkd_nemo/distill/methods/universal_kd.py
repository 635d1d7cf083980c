"""Universal-KD: Attention-based Output-Grounded KD (doi 10.18653/v1/2021.emnlp-main.603).

Each layer, pooled, has a projection of its own (the paper's pseudo classifier); each of the student
is compared, as a distribution, with the attention-weighted mean of the teacher's. As in GLMKD:
outputs of input layernorms from layer 1 up; a free width of the projections (the paper's is the
number of classes), all of them trained by this loss alone. Gamma is the term's weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from glmkd_nemo.distill.layer_attention import (
    Keys,
    attend,
    layers_of,
    project,
    project_each,
    vector_kl,
)
from glmkd_nemo.distill.layer_choice import state
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext, Taps


@dataclass
class UniversalKDConfig:
    """Options of Universal-KD.

    Attributes:
        cg: compare the final outputs only (capacity gap), not all layers (IL and CA).
        pooling: ``first`` position or ``mean`` over all (padding included).
        projection_size: width of the projections; 0 for the student's own.
    """

    cg: bool = False
    pooling: str = "first"
    projection_size: int = 0


class UniversalKD(Method):
    """Each projected layer of the student attends to all projected layers of the teacher."""

    Config = UniversalKDConfig
    shared = ("s_fit_dense",)

    def __init__(self, config: UniversalKDConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        if config.pooling not in ("first", "mean"):
            raise ValueError(f"universal_kd: pooling {config.pooling!r} is unknown: first, mean.")
        self.mine, self.its = self._keys(student), self._keys(teacher)
        if not self.mine or not self.its:
            raise ValueError("universal_kd: a model of one layer has none inside: set cg to true.")
        width = config.projection_size or student.hidden
        linear = partial(nn.Linear, out_features=width, bias=False)
        self.s_fit_dense = nn.ModuleList(linear(student.hidden) for _ in self.mine)
        self.t_fit_dense = nn.ModuleList(linear(teacher.hidden) for _ in self.its)

    def _keys(self, model: ModelShape) -> Keys:
        n, by = model.layers, f"_{self.config.pooling}"
        return tuple(state(k, n, by) for k in ([n] if self.config.cg else range(1, n)))

    def parts(self, context: StepContext) -> list[Part]:
        """``hidden_states.i`` by student layer, from layer 1 up (with ``cg``: one)."""
        # each reads them all: so all are computed where all of the teacher's layers are known
        return [
            Part(f"hidden_states.{i}", partial(self._loss, i), self.mine, self.its)
            for i in range(len(self.mine))
        ]

    def _loss(self, i: int, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        s = project(self.s_fit_dense[i], student[self.mine[i]].value)
        return vector_kl(s, attend(s, project_each(self.t_fit_dense, layers_of(teacher, self.its))))


METHOD = UniversalKD
