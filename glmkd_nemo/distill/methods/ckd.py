"""CKD: Distilling Linguistic Context for Language Model Compression (arXiv 2109.08359, section 3).

As in GLMKD: the states compared are outputs of each layer's input layernorm (layer 0 standing for
the embedding) and of the final one, the teacher's at the ends of even segments; padding is left out
only as the token from which a relation is seen: masked neighbours take part in ``word_angle``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from glmkd_nemo.distill import contextual
from glmkd_nemo.distill.layer_choice import state
from glmkd_nemo.distill.layer_map import uniform_segments
from glmkd_nemo.distill.masked_part import masked_part
from glmkd_nemo.distill.method import Method, ModelShape, Part, StepContext


@dataclass
class CKDConfig:
    """Options of CKD.

    Attributes:
        word_distance, word_angle: weights of the relations between the tokens of a layer.
        layer_distance, layer_angle: weights of those between the layers at a token.
        window: odd number of tokens that ``word_angle`` looks at.
    """

    word_distance: float = 1.0
    word_angle: float = 10.0
    layer_distance: float = 1.0
    layer_angle: float = 10.0
    window: int = 21


class CKD(Method):
    """Relations between tokens and between layers, as distances and as angles."""

    Config = CKDConfig
    teacher: ModelShape

    def __init__(self, config: CKDConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        if config.window < 1 or config.window % 2 == 0:
            raise ValueError(f"ckd: window {config.window} must be odd, the token in its middle.")

    def parts(self, context: StepContext) -> list[Part]:
        """``word_distance.i``, ``word_angle.i`` by layer; ``layer_distance``, ``layer_angle``."""
        c, n, m = self.config, self.student.layers, self.teacher.layers
        mine = tuple(state(k, n) for k in range(n + 1))
        theirs = tuple(state(k, m) for k in uniform_segments(m, n))
        angle = partial(contextual.word_angle, window=c.window)
        found = [
            masked_part(
                "layer_distance", contextual.layer_distance, mine, theirs, c.layer_distance
            ),
            masked_part("layer_angle", contextual.layer_angle, mine, theirs, c.layer_angle),
        ]
        for i, pair in enumerate(zip(mine, theirs, strict=True)):
            keys, distance = ((pair[0],), (pair[1],)), contextual.word_distance
            found += [
                masked_part(f"word_distance.{i}", distance, *keys, c.word_distance / (n + 1)),
                masked_part(f"word_angle.{i}", angle, *keys, c.word_angle / (n + 1)),
            ]
        return [part for part in found if part.weight]


METHOD = CKD
