"""GLMD: Are Intermediate Layers and Labels Really Necessary? (arXiv 2306.06625, section 3).

Logits of *all* positions are distilled, context included, with neither labels nor intermediate
layers. The paper's two stages are this term and then a task stage with ``kd`` at T = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from glmkd_nemo.distill.divergences import SoftLoss
from glmkd_nemo.distill.method import Batch, Loss, Method, ModelShape, Part, StepContext, Taps
from glmkd_nemo.distill.positions import Positions
from glmkd_nemo.distill.row_loss import LOGITS, TokenLoss
from glmkd_nemo.distill.top_n import count, flattening, top_n
from glmkd_nemo.models.logits import comparable


@dataclass
class GLMDConfig(SoftLoss):
    """Options of GLMD, besides those of ``SoftLoss``: loss, temperature (15 in the paper), ...

    Attributes:
        mask_pad: leave padding out (the paper's setting).
        mask_a: leave the context (part A) out, so that only positions to be predicted count.
        mask_map: compare only the tokens that the student's vocabulary map keeps.
        teacher_input_map: the teacher reads the tokens that the student's map leaves.
        top_n: only the teacher's most likely tokens: a number, or a share (below 1) of the
            vocabulary; part ``top_n`` keeps the student's other logits below these.
        teacher_min: with ``top_n``: all tokens, the teacher's others set to its smallest logit.
    """

    temperature: float = 15.0
    mask_pad: bool = True
    mask_a: bool = False
    mask_map: bool = False
    teacher_input_map: bool = False
    top_n: float | None = None
    teacher_min: bool = False


class GLMD(Method):
    """Logits over the whole sequence."""

    Config = GLMDConfig

    def __init__(self, config: GLMDConfig, student: ModelShape, teacher: ModelShape | None) -> None:
        super().__init__(config, student, teacher)
        config.check("glmd")
        self.maps_teacher_input = config.teacher_input_map
        if config.teacher_min and config.top_n is None:
            raise ValueError("glmd: teacher_min has no effect without top_n; set both or neither.")
        if config.top_n is not None and config.top_n <= 0:
            raise ValueError("glmd: top_n must be a number of tokens, or a share between 0 and 1.")

    def parts(self, context: StepContext) -> list[Part]:
        """``logits``; with ``top_n`` (and not ``teacher_min``) ``top_n`` as well."""
        c = self.config
        found: dict[str, Loss] = {"logits": partial(self._top, 0), "top_n": partial(self._top, 1)}
        if c.top_n is None or c.teacher_min:
            change = None if c.top_n is None else flattening(c.top_n)
            found = {"logits": TokenLoss(c, self._where, kept_only=c.mask_map, change=change)}
        return [Part(name, loss, (LOGITS,), (LOGITS,)) for name, loss in found.items()]

    def _where(self, batch: Batch) -> Positions:
        names = ("none", "target", "pad_positions", "pad_positions_and_target")
        return batch.positions(names[2 * self.config.mask_pad + self.config.mask_a])

    def _top(self, which: int, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        c, where = self.config, self._where(batch)
        s, t = comparable(student[LOGITS], teacher[LOGITS], c.mask_map)
        mine, theirs, n = s.rows(where), t.rows(where), count(c.top_n, s.vocab_size)
        return top_n(c.of_whole, mine, theirs, where, n, s.columns.start)[which]


METHOD = GLMD
