"""MiniLMv2: Multi-Head Self-Attention Relation Distillation (arXiv 2012.15828, section 3).

Relations among queries, among keys and among values of the student's last layer and one layer of
the teacher. As in GLMKD the three are summed with equal weight 1 and padded positions averaged in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from glmkd_nemo.distill.attention_losses import check_relation_heads, head_relation
from glmkd_nemo.distill.layer_choice import pair_part
from glmkd_nemo.distill.method import Method, ModelShape, Part, StepContext


@dataclass
class MiniLMv2Config:
    """Options of MiniLMv2; with several teachers each has a term, with options of its own.

    Attributes:
        relation_heads: into how many heads the whole width is cut anew; 48 in the paper for a base
            teacher, 64 for a large one. It must divide both hidden sizes, and be a multiple of the
            tensor-parallel size.
        teacher_layer: the teacher's layer, counted from 1, or from the end if negative. The recipe
            has the last of a base teacher; the paper an upper middle one of a large teacher.
    """

    relation_heads: int = 48
    teacher_layer: int = -1


class MiniLMv2(Method):
    """Relations of queries, keys and values."""

    Config = MiniLMv2Config
    teacher: ModelShape

    def __init__(self, config: MiniLMv2Config, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        check_relation_heads(config.relation_heads, student.hidden, teacher.hidden)
        if not 1 <= abs(config.teacher_layer) <= teacher.layers:
            raise ValueError(
                f"minilmv2: teacher_layer {config.teacher_layer} of a teacher with "
                f"{teacher.layers} layers: give 1 (first) to {teacher.layers}, or -1 (last) down."
            )

    def parts(self, context: StepContext) -> list[Part]:
        """``queries``, ``keys``, ``values``."""
        s, t = self.student.layers - 1, self.config.teacher_layer
        t = t - 1 if t > 0 else t + self.teacher.layers
        loss = partial(head_relation, relation_heads=self.config.relation_heads)
        named = {"queries": "query", "keys": "key", "values": "value"}
        return [pair_part(name, loss, (tap, s), (tap, t)) for name, tap in named.items()]


METHOD = MiniLMv2
