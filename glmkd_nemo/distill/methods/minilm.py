"""MiniLM: Deep Self-Attention Distillation (arXiv 2002.10957, section 3).

The last layers' attention distributions and value relations. As in GLMKD, attention probabilities
go through the softmax once more, where the paper compares them as they are, and padded positions
are averaged in.
"""

from __future__ import annotations

from dataclasses import dataclass

from glmkd_nemo.distill.attention_losses import attention_kl, check_equal_heads
from glmkd_nemo.distill.layer_choice import pair_part
from glmkd_nemo.distill.method import Method, ModelShape, Part, StepContext
from glmkd_nemo.distill.relations import relation


@dataclass
class MiniLMConfig:
    """No options."""


class MiniLM(Method):
    """Attention and values of the last layer."""

    Config = MiniLMConfig
    teacher: ModelShape

    def __init__(self, config: MiniLMConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        check_equal_heads("minilm", student, teacher, "use minilmv2, or equal heads")

    def parts(self, context: StepContext) -> list[Part]:
        """``attention`` and ``values``."""
        s, t = self.student.layers - 1, self.teacher.layers - 1
        return [
            pair_part("attention", attention_kl, ("probs", s), ("probs", t)),
            pair_part("values", relation, ("value", s), ("value", t)),
        ]


METHOD = MiniLM
