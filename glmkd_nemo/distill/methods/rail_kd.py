"""RAIL-KD: RAndom Intermediate Layer Knowledge Distillation (arXiv 2109.10164, section 3).

Each layer's mean over positions against a random teacher layer's, both projected to one width and
scaled to length 1. As in GLMKD: padding averaged in, layers of equal weight, *summed* over samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from glmkd_nemo.distill.layer_attention import Keys, direction_error, layers_of, project
from glmkd_nemo.distill.layer_choice import RandomLayers, state
from glmkd_nemo.distill.layer_map import skip
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext, Taps


@dataclass
class RailKDConfig(RandomLayers):
    """Options of RAIL-KD, and those of :class:`RandomLayers`.

    Attributes:
        random_layers: false: every (t // s)-th layer of the teacher, the rest dropped.
        concatenated: project all layers side by side as one vector, not layer by layer.
        projection_size: width of both projections, u in the paper.
        embedding, final: whether the embedding and the final output take part.
    """

    random_layers: bool = True
    concatenated: bool = True
    projection_size: int = 128
    embedding: bool = False
    final: bool = False


class RailKD(Method):
    """Random intermediate layers."""

    Config = RailKDConfig
    shared = ("s_fit_dense",)
    teacher: ModelShape

    def __init__(self, config: RailKDConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        config.check("rail_kd")
        regular = skip(teacher.layers, student.layers)[1:-1]
        self.inside = range(1, teacher.layers) if config.random_layers else regular
        if student.layers == 1 and not (config.embedding or config.final):
            raise ValueError("rail_kd: one layer has none inside: set embedding or final to true.")
        n = len(regular) + config.embedding + config.final if config.concatenated else 1
        self.s_fit_dense = nn.Linear(n * student.hidden, config.projection_size)
        self.t_fit_dense = nn.Linear(n * teacher.hidden, config.projection_size)

    def parts(self, context: StepContext) -> list[Part]:
        c, n, m, at = self.config, self.student.layers, self.teacher.layers, self.place[0]
        layers = c.draw(context, "rail_kd", m, n - 1, at) if c.random_layers else self.inside
        return [self._part(layers)]

    def possible_parts(self) -> list[Part]:
        return [self._part(self.inside)]

    def _part(self, teacher_layers: Iterable[int]) -> Part:
        s = self._keys(range(1, self.student.layers), self.student)
        t = self._keys(teacher_layers, self.teacher)
        return Part("hidden_states", partial(self._loss, s, t), s, t)

    def _keys(self, inside: Iterable[int], model: ModelShape) -> Keys:
        ends = [0] * self.config.embedding, [model.layers] * self.config.final
        return tuple(state(k, model.layers, "_mean") for k in (*ends[0], *inside, *ends[1]))

    def _loss(self, mine: Keys, its: Keys, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        s = project(self.s_fit_dense, layers_of(student, mine, self.config.concatenated))
        t = project(self.t_fit_dense, layers_of(teacher, its, self.config.concatenated))
        return direction_error(s, t) * len(s)


METHOD = RailKD
