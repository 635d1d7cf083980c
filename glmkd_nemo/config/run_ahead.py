"""Keys of ``model.run_ahead``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RunAheadSection:
    """Frozen teachers work ahead of their student, in the waiting times of a pipeline or, with
    CUDA, on a stream of their own. Values and gradients stay the same, bit by bit.

    What waits for the student is one set of taps per micro-batch on a stage: the tensors that the
    terms compare there ([b, s, h] each; attention scores [b, heads, s, s] each; of predictions the
    final hidden states only, as logits are made in the loss).

    Attributes:
        micro_batches: most micro-batches that wait; 0: teachers run when asked; null: twice the
            number of pipeline stages, where these talk over gloo and the terms allow it, else 0.
        next_step: whether the next step's micro-batches may be among them; its batch is then read
            one step early. null: where the terms allow it.
    """

    micro_batches: int | None = None
    next_step: bool | None = None
