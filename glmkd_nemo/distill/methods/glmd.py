"""GLMD: Are Intermediate Layers and Labels Really Necessary? (arXiv 2306.06625, section 3).

Logits of *all* positions are distilled, context included, with neither labels nor intermediate
layers. The paper's two stages are this term and then a task stage with ``kd`` at T = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from glmkd_nemo.distill.losses import prediction_of_rows
from glmkd_nemo.distill.method import Batch, Loss, Method, ModelShape, Part, StepContext, Taps
from glmkd_nemo.distill.top_n import count, flattened_below_top, top_n
from glmkd_nemo.models.logits import Logits

LOGITS = ("logits", None)


@dataclass
class GLMDConfig:
    """Options of GLMD.

    Attributes:
        temperature: T, 15 in the paper.
        mask_pad: leave padding out (the paper's setting).
        mask_a: leave the context (part A) out, so that only positions to be predicted count.
        mse: mean squared error of logits instead of KL.
        top_n: only the teacher's most likely tokens: a number, or a share (below 1) of the
            vocabulary; part ``top_n`` keeps the student's other logits below these.
        teacher_min: with ``top_n``: all tokens, the teacher's others set to its smallest logit.
    """

    temperature: float = 15.0
    mask_pad: bool = True
    mask_a: bool = False
    mse: bool = False
    top_n: float | None = None
    teacher_min: bool = False


class GLMD(Method):
    """Logits over the whole sequence."""

    Config = GLMDConfig

    def __init__(self, config: GLMDConfig, student: ModelShape, teacher: ModelShape | None) -> None:
        super().__init__(config, student, teacher)
        if config.temperature <= 0:
            raise ValueError(f"glmd: temperature {config.temperature} must be above 0.")
        if config.teacher_min and config.top_n is None:
            raise ValueError("glmd: teacher_min has no effect without top_n; set both or neither.")
        if config.top_n is not None and config.top_n <= 0:
            raise ValueError("glmd: top_n must be a number of tokens, or a share between 0 and 1.")

    def parts(self, context: StepContext) -> list[Part]:
        """``logits``; with ``top_n`` (and not ``teacher_min``) ``top_n`` as well."""
        losses_by_name: dict[str, Loss] = {"logits": self._whole_vocabulary}
        if self.config.top_n is not None and not self.config.teacher_min:
            losses_by_name = {"logits": partial(self._top, 0), "top_n": partial(self._top, 1)}
        return [Part(name, loss, (LOGITS,), (LOGITS,)) for name, loss in losses_by_name.items()]

    def _rows(self, student: Taps, teacher: Taps, batch: Batch) -> tuple[Logits, Logits, Tensor]:
        pad, a = self.config.mask_pad, self.config.mask_a
        if a:
            mask = batch.pad_positions_and_target if pad else batch.target
        else:
            mask = batch.pad_positions if pad else batch.everywhere
        return student[LOGITS], teacher[LOGITS], mask

    def _whole_vocabulary(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        c, (s, t, mask) = self.config, self._rows(student, teacher, batch)
        rows = t.rows(mask)
        if c.teacher_min:
            rows = flattened_below_top(rows, count(c.top_n, t.vocab_size))
        kind = "mse" if c.mse else "kl"
        return prediction_of_rows(kind, s.rows(mask), rows, mask, s.vocab_size, c.temperature)

    def _top(self, which: int, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        c, (s, t, mask) = self.config, self._rows(student, teacher, batch)
        n, kind = count(c.top_n, t.vocab_size), "mse" if c.mse else "kl"
        first = s.columns.start
        return top_n(kind, s.rows(mask), t.rows(mask), mask, n, first, c.temperature)[which]


METHOD = GLMD
