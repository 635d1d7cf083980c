"""Uncertainty: Unified and Effective Ensemble KD (arXiv 2204.00548, section 3).

Teachers stand in order of size. The surer the student is of a sample (the lower its entropy), the
larger the teacher that it learns from: ``hard`` gives each sample one teacher by its rank in the
batch, the soft form weighs all. As in GLMKD weights keep their gradient with respect to the
student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill.aggregator import Aggregator, Weights, prediction_key
from glmkd_nemo.distill.method import MASKS, Batch, StepContext, Taps
from glmkd_nemo.distill.signals import normalized_entropy


@dataclass
class UncertaintyConfig:
    """Options of the choice by uncertainty.

    Attributes:
        hard: one teacher per sample, where a batch has at least as many samples as teachers.
        select: whether teachers are weighed at all.
        order: each teacher's place in the order from small to large; ``None``: as configured.
        inter_entropy: intermediate losses are weighed by the entropy, predictions by 1 - entropy.
        of: whose entropy: ``tokens`` or ``classes``.
        mask: positions that count, for tokens.
    """

    hard: bool = True
    select: bool = True
    order: list[int] | None = None
    inter_entropy: bool = False
    of: str = "tokens"
    mask: str = "target"


class Uncertainty(Aggregator):
    """Teachers chosen by the student's entropy."""

    Config = UncertaintyConfig

    def __init__(self, config: UncertaintyConfig, student: Any, teachers: Sequence[Any]) -> None:
        super().__init__(config, student, teachers)
        self.student_keys = (prediction_key(config.of),)
        self.fixed_intermediate = not config.inter_entropy
        self.order = list(range(len(self.teachers))) if config.order is None else config.order
        if sorted(self.order) != list(range(len(self.teachers))):
            raise ValueError(f"uncertainty: order {self.order} must hold each teacher's number.")
        if config.mask not in MASKS:
            raise ValueError(f"uncertainty: mask {config.mask!r} is unknown: {', '.join(MASKS)}.")

    def intermediate(self, context: StepContext) -> list[float]:
        """The mean over teachers."""
        return [1 / len(self.teachers)] * len(self.teachers)

    def weights(
        self, student: Taps, teachers: Sequence[Taps], batch: Batch, context: StepContext
    ) -> Weights:
        """By the entropy of the student on each sample."""
        c, count = self.config, len(self.teachers)
        entropy = normalized_entropy(student[self.student_keys[0]], batch, c.mask)
        rate = self._rate(entropy) / count
        prediction = [rate[:, place] for place in self.order]
        if not c.inter_entropy:
            return Weights(prediction, self.intermediate(context))
        sure = (1 - entropy).abs()
        return Weights([sure * p for p in prediction], [entropy / count] * count)

    def _rate(self, entropy: Tensor) -> Tensor:
        """``[b] -> [b, T]``, summing up to T; column 0 is the smallest teacher's."""
        b, count = entropy.shape[0], len(self.teachers)
        if not self.config.select or count == 1:
            return entropy.new_ones(b, count)
        places = torch.arange(count, device=entropy.device)
        if self.config.hard and b >= count:
            rank = (-entropy).argsort().argsort().unsqueeze(-1) + 1  # 1: the least sure
            share = rank / b * count
            return ((share > places) & (share <= places + 1)).to(entropy.dtype)
        larger = places / (count - 1)
        h = entropy.unsqueeze(-1)
        rate = h + (1 - 2 * h) * larger
        return rate / rate.sum(-1, keepdim=True) * count


AGGREGATOR = Uncertainty
