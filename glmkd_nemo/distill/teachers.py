"""A frozen teacher, its shard living beside the student's on the same ranks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill.method import Batch, ModelShape
from glmkd_nemo.distill.taps import TapKey, record
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.glm import GLMModel


def shape_of(config: GLMConfig) -> ModelShape:
    """The sizes that methods may depend on."""
    return ModelShape(config.num_layers, config.hidden_size, config.num_attention_heads)


class Teacher:
    """A ``GLMModel`` that only ever runs forward.

    It is not an ``nn.Module``, so that no optimizer, checkpoint or ``.train()`` reaches it.

    Args:
        model: this rank's stage and shard, weights loaded.
    """

    def __init__(self, model: GLMModel) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config: GLMConfig = model.config

    @torch.no_grad()
    def forward(
        self, batch: Batch, want: Collection[TapKey], received: Tensor | None
    ) -> tuple[Any, dict[TapKey, Any]]:
        """Runs this stage.

        Args:
            batch: the micro-batch.
            want: taps of this stage's layers.
            received: activation of the stage before; ``None`` on the first.

        Returns:
            What goes to the next stage (on the last: a ``Logits`` handle), and the taps.
        """
        if received is not None:
            self.model.set_input_tensor(received)
        with record(want, self.config.sequence_parallel) as taps:
            output = self.model(
                batch.input_ids,
                batch.position_ids,
                batch.attention_mask,
                materialize=False,
                task=batch.task,
            )
        return output, taps
