"""LRC-BERT: Latent-representation Contrastive Knowledge Distillation (arXiv 2012.07335, section 3).

As in GLMKD: one projection without bias for all layers, outputs of each layer's input layernorm and
of the final one, the teacher's at the ends of even segments, padded positions averaged in. Soft and
hard labels are the terms ``kd`` and ``hard``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from glmkd_nemo.distill.contrastive import cos_nce, perturbed
from glmkd_nemo.distill.layer_choice import pair_parts, state
from glmkd_nemo.distill.layer_map import uniform_segments
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext
from glmkd_nemo.distill.taps import Edits, Tap

EMBEDDING = ("embedding", None)


@dataclass
class LRCBERTConfig:
    """Options of LRC-BERT.

    Attributes:
        grad_perturb: go over each micro-batch twice; the second time, whose gradients count, the
            direction of the embedding's gradient in the first is added to the embedding.
        gather_dp: contrast with the samples of all data-parallel ranks.
    """

    grad_perturb: bool = False
    gather_dp: bool = False


class LRCBERT(Method):
    """Contrast between samples, for each layer."""

    Config = LRCBERTConfig
    teacher: ModelShape

    def __init__(self, config: LRCBERTConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        self.fit_dense = nn.Linear(student.hidden, teacher.hidden, bias=False)
        self.passes = 2 if config.grad_perturb else 1
        self._gradients: dict[int, Tensor] = {}

    def parts(self, context: StepContext) -> list[Part]:
        """``hidden_states.i``: what layer ``i`` gives, through the layernorm that follows."""
        n, m = self.student.layers, self.teacher.layers
        ends = enumerate(uniform_segments(m, n)[1:], start=1)
        return pair_parts(
            "hidden_states", self._loss, [(state(i, n), state(e, m)) for i, e in ends]
        )

    def _loss(self, student: Tap, teacher: Tap) -> Tensor:
        return cos_nce(self.fit_dense(student.value), teacher.value, self.config.gather_dp)

    def edits(self, context: StepContext, batch: Batch) -> tuple[Edits, Edits]:
        """In the first pass the embedding's gradient is kept, in the second it is added."""
        if not self.config.grad_perturb:
            return {}, {}
        edit = self._keep_gradient if context.forward_pass == 0 else self._perturb
        return {EMBEDDING: partial(edit, context.micro_batch)}, {}

    def _keep_gradient(self, micro_batch: int, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(partial(self._gradients.__setitem__, micro_batch))
        return x

    def _perturb(self, micro_batch: int, x: Tensor) -> Tensor:
        gradient = self._gradients.pop(micro_batch, None)
        return x if gradient is None else perturbed(x, gradient)


METHOD = LRCBERT
