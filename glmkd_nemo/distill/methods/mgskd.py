"""MGSKD: Multi-Granularity Structural Knowledge Distillation for Language Model Compression
(ACL 2022, 10.18653/v1/2022.acl-long.71, section 3).

Lower states teach how tokens and spans lie to one another, upper states how samples do. As in
GLMKD: states are outputs of input layernorms (the first stands for the embedding) and of the final
one, the teacher's every ``t // s``-th; spans are cut at random, where the paper has a chunker's
phrases, and a span counts as soon as one of its tokens does, with padding in its mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from glmkd_nemo.distill import geometry
from glmkd_nemo.distill.layer_choice import skip_states, state
from glmkd_nemo.distill.masked_part import MaskedLoss, masked_part
from glmkd_nemo.distill.method import Method, ModelShape, Part, StepContext


@dataclass
class MGSKDConfig:
    """Options of MGSKD.

    Attributes:
        sample, token, span: weights.
        sample_from: first state (0 is the embedding) whose samples are compared, M in the paper;
            those below compare tokens and spans.
        relation_heads: heads that the hidden sizes are cut into for products, and for samples.
        anchors, neighbours: triplets are taken around so many vectors, k1, with so many each, k2.
        span_share: number of spans over the length of the sequence.
    """

    sample: float = 4.0
    token: float = 1.0
    span: float = 1.0
    sample_from: int = 3
    relation_heads: int = 64
    anchors: int = 20
    neighbours: int = 20
    span_share: float = 0.4


class MGSKD(Method):
    """Structure of tokens, spans and samples. Spans are drawn per step, the same in all layers."""

    Config = MGSKDConfig
    teacher: ModelShape

    def __init__(self, config: MGSKDConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        heads = config.relation_heads
        geometry.check_relation_heads("mgskd", heads, student.hidden, teacher.hidden)
        if min(config.anchors, config.neighbours) < 1:
            raise ValueError("mgskd: anchors and neighbours must be above 0.")
        if not 0 < config.span_share <= 1:
            raise ValueError("mgskd: span_share must be above 0, at most 1; span=0 leaves it out.")

    def parts(self, context: StepContext) -> list[Part]:
        """``token.i`` and ``span.i`` of lower states, ``sample.i`` of upper ones."""
        c, n, m = self.config, self.student.layers, self.teacher.layers
        draw = partial(context.draws, "mgskd", context.step)
        token = {"heads": c.relation_heads, "anchors": c.anchors, "neighbours": c.neighbours}
        losses: dict[str, MaskedLoss] = {
            "sample": partial(geometry.sample_structure, heads=c.relation_heads),
            "token": partial(geometry.token_structure, **token),
            "span": partial(geometry.span_structure, **token, share=c.span_share, draw=draw),
        }
        found = []
        for i, other in enumerate(skip_states(m, n)):
            for name in ("token", "span") if i < c.sample_from else ("sample",):
                keys = (state(i, n),), (state(other, m),)
                found.append(masked_part(f"{name}.{i}", losses[name], *keys, getattr(c, name)))
        return [part for part in found if part.weight]


METHOD = MGSKD
