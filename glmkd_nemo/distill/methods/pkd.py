"""Patient Knowledge Distillation for BERT Model Compression (arXiv 1908.09355, section 3.2).

The patience term (PKD-Skip), the paper's beta being its weight; soft and hard labels are the terms
``kd`` and ``hard``, weighted alpha and 1 - alpha. As in GLMKD hidden states are those of
``layer_choice.py``; without ``only_cls``, where the paper leaves off, padding is averaged in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.alignment import Aligned
from glmkd_nemo.distill.layer_choice import pair_parts, skip_states, state
from glmkd_nemo.distill.losses import mse
from glmkd_nemo.distill.method import ModelShape, Part, StepContext
from glmkd_nemo.distill.taps import Tap


@dataclass
class PKDConfig:
    """Options of PKD.

    Attributes:
        normalize: compare directions: divide by the Euclidean norm, as the paper does.
        only_cls: only the first position.
        embedding, final: whether the embedding and the final hidden states take part.
        project: whose states a trained projection, one for all layers, brings to the other's size:
            ``none``, ``student`` or ``teacher`` (both are MT-BERT's, arXiv 2106.01023).
        fix_layernorm: before that, LayerNorms of its own (only the student's is trained).
    """

    normalize: bool = True
    only_cls: bool = True
    embedding: bool = False
    final: bool = False
    project: str = "none"
    fix_layernorm: bool = False


class PKD(Aligned):
    """Hidden states of every ``t // s``-th layer of the teacher."""

    Config = PKDConfig

    def __init__(self, config: PKDConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher, config.project, config.fix_layernorm)
        if student.layers + config.embedding + config.final < 2:
            raise ValueError("pkd: a student of one layer needs embedding=true or final=true.")

    def parts(self, context: StepContext) -> list[Part]:
        """``hidden_states.i``, from the embedding or the first layer up."""
        c, n, m = self.config, self.student.layers, self.teacher.layers
        suffix, ends = "_first" if c.only_cls else "", skip_states(m, n)
        states = range(0 if c.embedding else 1, n + int(c.final))
        pairs = ((state(i, n, suffix), state(ends[i], m, suffix)) for i in states)
        return pair_parts("hidden_states", self._loss, pairs)

    def _loss(self, student: Tap, teacher: Tap) -> Tensor:
        s, t = self.align(student.value, teacher.value)
        if self.config.normalize:
            s, t = F.normalize(s, dim=-1), F.normalize(t, dim=-1)
        return mse(s, t)


METHOD = PKD
