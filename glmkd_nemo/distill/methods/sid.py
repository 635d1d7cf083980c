"""SID: Knowledge Distillation from Internal Representations (arXiv 1910.03723, section 3).

Layers join one by one from the bottom, each with the KL of its attention and the cosine distance of
its first position; then terms that wait (``after: sid``) begin. As in GLMKD a layer's hidden state
is what the layernorm after it gives, padding is averaged in, and it is the distances' sum, over the
layers that have joined, that the threshold is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from glmkd_nemo.distill.losses import cosine
from glmkd_nemo.distill.method import ModelShape, Part, StepContext
from glmkd_nemo.distill.progress import Progressive, share_is_over, stage_at
from glmkd_nemo.distill.taps import Tap


@dataclass
class SIDConfig:
    """Options of SID.

    Attributes:
        even: a layer joins when its turn has come, after an equal share of the steps for each.
        threshold: a layer joins already when the sum of the cosine distances, averaged over a
            step, falls below this; 0 for never.
    """

    even: bool = True
    threshold: float = 0.0


class SID(Progressive):
    """Attention and first position of the layers that have joined; nothing once all had a turn."""

    Config = SIDConfig
    stage: Tensor

    def __init__(self, config: SIDConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        if not config.even and config.threshold <= 0:
            raise ValueError("sid stays at its first layer: set even=true or a threshold above 0.")
        self.register_buffer("stage", torch.ones((), dtype=torch.long))

    def stage_of(self, context: StepContext) -> int:
        """By the step alone; with a threshold, as observed so far."""
        by_step = stage_at(context.step, context.max_steps, self.student.layers)
        return int(self.stage) if self.config.threshold > 0 else by_step

    def parts_in(self, stage: int) -> list[Part]:
        """``attention_scores.i`` and ``hidden_states.i`` by student layer."""
        if stage > self.student.layers:
            return []
        return self.attention(stage) + self.hidden(range(1, stage + 1), _cosine, "_first")

    def observe(self, context: StepContext, values: Mapping[str, float]) -> None:
        """Moves the stage on by one, if the step was the last of its."""
        stage, n = int(self.stage), self.student.layers
        distance = sum(v for name, v in values.items() if name.startswith("hidden_states"))
        over = self.config.even and share_is_over(context.step, context.max_steps, n, stage)
        if stage <= n and (over or distance < self.config.threshold):
            self.stage += 1


def _cosine(student: Tap, teacher: Tap) -> Tensor:
    return cosine(*(Tap(x.value.unsqueeze(1)) for x in (student, teacher)))


METHOD = SID
