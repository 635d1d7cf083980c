"""DIITO: Causal Distillation for Language Models (arXiv 2112.02505, sections 3 and 4).

View 0 of a batch is the plain forward pass; in view 1 some positions get hidden states of another
sample, in student and teacher alike, and the two still have to agree (see ``interchange.py``). The
labels of view 0 are terms ``kd`` and ``hard``. As in GLMKD the student's states are not detached,
and a padded position is averaged in with cosine distance 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from glmkd_nemo.distill.interchange import Interchange, interchange
from glmkd_nemo.distill.losses import cosine
from glmkd_nemo.distill.method import Batch, ModelShape, Part, StepContext, Taps
from glmkd_nemo.distill.methods.kd import KD, KDConfig
from glmkd_nemo.distill.taps import Edits, TapKey

OUTPUT: TapKey = ("output", None)


@dataclass
class DIITOConfig(Interchange, KDConfig):
    """Options of DIITO: those of KD, for view 1, those of the interchange, and weights.

    Attributes:
        cos, causal_cos: of the cosine distance of outputs in view 0 and 1; 0 leaves a part out.
        causal_ce: of the soft labels in view 1.
    """

    temperature: float = 2.0
    cos: float = 0.25
    causal_ce: float = 0.25
    causal_cos: float = 0.0


class DIITO(KD):
    """Agreement of outputs, with and without the interchange."""

    Config = DIITOConfig
    views = 2
    teacher: ModelShape

    def __init__(self, config: DIITOConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        config.check_models(student, teacher, outputs=bool(config.cos or config.causal_cos))

    def parts(self, context: StepContext) -> list[Part]:
        """``cos``, ``causal_ce``, ``causal_cos``."""
        c, (soft,) = self.config, super().parts(context)
        cos = Part("cos", self._cosine, (OUTPUT,), (OUTPUT,), c.cos)
        causal_ce = replace(soft, name="causal_ce", weight=c.causal_ce, view=1)
        causal_cos = replace(cos, name="causal_cos", weight=c.causal_cos, view=1)
        return [part for part in (cos, causal_ce, causal_cos) if part.weight]

    def possible_parts(self) -> list[Part]:
        """Names the tensors that may be interchanged too: their layers need the plain form."""
        mine, theirs = self.config.possible_keys(self.student.layers, self.teacher.layers)
        pairs = [((key,), ()) for key in mine] + [((OUTPUT,), (key,)) for key in theirs]
        return self.parts(StepContext()) + [Part("interchange", self._cosine, *p) for p in pairs]

    def edits(self, context: StepContext, batch: Batch) -> tuple[Edits, Edits]:
        """The interchange: its layer is drawn by step, its positions by micro-batch."""
        n, m, step = self.student.layers, self.teacher.layers, context.step
        layer = context.draws("diito layer", step).choice(range(1, n + 1))
        rng = context.draws("diito positions", step, context.micro_batch)
        masks = self.config.draw_positions(batch.pad_positions, rng)
        edit = partial(interchange, masks=masks)
        student, teacher = self.config.keys(n, m, layer)
        return dict.fromkeys(student, edit), dict.fromkeys(teacher, edit)

    def _cosine(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        real = batch.pad_positions.unsqueeze(-1)
        return cosine(student[OUTPUT].map(real.mul), teacher[OUTPUT].map(real.mul))


METHOD = DIITO
