"""MobileBERT: progressive knowledge transfer (arXiv 2004.02984, sections 3.3 and 3.4).

Layer after layer, from the bottom: mean squared error of hidden states (from the embedding up) and
KL of attention; then terms that wait (``after: mobilebert``) begin, and all layers count in full.
Lower layers, which the paper trains at a smaller learning rate, get a smaller weight, as in GLMKD;
padding is averaged in, and a layer's hidden state is what the layernorm after it gives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from glmkd_nemo.distill.losses import mse
from glmkd_nemo.distill.method import Part, StepContext
from glmkd_nemo.distill.progress import Progressive, stage_at


@dataclass
class MobileBERTConfig:
    """Options of MobileBERT.

    Attributes:
        lower_weight: weight of the layers below the one that is being trained.
        steps: those that the layers share out evenly, 0 for all of training (GLMKD takes those of
            the learning rate's decay where they are set).
    """

    lower_weight: float = 0.1
    steps: int = 0


class MobileBERT(Progressive):
    """Attention and hidden states of the layers that have joined."""

    Config = MobileBERTConfig

    def stage_of(self, context: StepContext) -> int:
        """By the step alone."""
        return stage_at(context.step, self.config.steps or context.max_steps, self.student.layers)

    def parts_in(self, stage: int) -> list[Part]:
        """``attention_scores.i`` by student layer, ``hidden_states.i`` from the embedding up."""
        top = min(stage, self.student.layers)
        attention, hidden = self.attention(top), self.hidden(range(top + 1), mse)
        if stage > top:
            return attention + hidden
        low = self.config.lower_weight  # for all but the last of each, the layer being trained
        lower = [replace(part, weight=low) for part in attention[:-1] + hidden[:-1]]
        return [*lower, attention[-1], hidden[-1]]


METHOD = MobileBERT
