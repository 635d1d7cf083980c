"""GLMD: Are Intermediate Layers and Labels Really Necessary? (arXiv 2306.06625, section 3).

Logits of *all* positions are distilled, context included, with neither labels nor intermediate
layers. The paper's two stages are this term and then a task stage with ``kd`` at T = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glmkd_nemo.distill import losses, top_n
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext, Taps

LOGITS = ("logits", None)


@dataclass
class GLMDConfig:
    """Options of GLMD.

    Attributes:
        temperature: T, 15 in the paper.
        mask_pad: leave padding out (the paper's setting).
        mask_a: leave the context (part A) out, so that only positions to be predicted count.
        mse: mean squared error of logits instead of KL.
        top_n: only the teacher's most likely tokens: a number, or a share of the vocabulary below 1.
            Part ``top_n`` then keeps the student's other logits below its lowest among them.
        teacher_min: with ``top_n``: keep the whole vocabulary, the teacher's logits outside its top
            set to its smallest.
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
        if config.teacher_min and config.top_n is None:
            raise ValueError("glmd: teacher_min has no effect without top_n; set both or neither.")
        if config.top_n is not None and config.top_n <= 0:
            raise ValueError("glmd: top_n must be a number of tokens, or a share between 0 and 1.")

    def parts(self, context: StepContext) -> list[Part]:
        """``logits``; with ``top_n`` (and not ``teacher_min``) ``top_n`` as well."""
        taps = {"student": (LOGITS,), "teacher": (LOGITS,)}
        if self.config.top_n is None:
            return [Part("logits", self._all, **taps)]
        if self.config.teacher_min:
            return [Part("logits", self._teacher_min, **taps)]
        return [Part("logits", self._top, **taps), Part("top_n", self._hinge, **taps)]

    def _mask(self, batch: Batch) -> Tensor:
        if self.config.mask_a:
            return batch.pad_positions_and_target if self.config.mask_pad else batch.target
        return batch.pad_positions if self.config.mask_pad else batch.everywhere

    @property
    def _kind(self) -> str:
        return "mse" if self.config.mse else "kl"

    def _all(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        s, t, mask = student[LOGITS], teacher[LOGITS], self._mask(batch)
        return losses.prediction(self._kind, s, t, mask, self.config.temperature)

    def _teacher_min(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        s, t, mask = student[LOGITS], teacher[LOGITS], self._mask(batch)
        n = top_n.count(self.config.top_n, t.vocab_size)
        flat = top_n.flattened_below_top(t.rows(mask), n)
        return losses.prediction_of_rows(
            self._kind, s.rows(mask), flat, mask, s.vocab_size, self.config.temperature
        )

    def _top(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        return self._top_parts(student, teacher, batch)[0]

    def _hinge(self, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        return self._top_parts(student, teacher, batch)[1]

    def _top_parts(self, student: Taps, teacher: Taps, batch: Batch) -> tuple[Tensor, Tensor]:
        s, t, mask = student[LOGITS], teacher[LOGITS], self._mask(batch)
        n = top_n.count(self.config.top_n, t.vocab_size)
        return top_n.top_n(
            self._kind, s.rows(mask), t.rows(mask), mask, n, s.columns.start, self.config.temperature
        )


METHOD = GLMD
