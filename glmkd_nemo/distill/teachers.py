"""A frozen teacher, its shard living beside the student's on the same ranks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from glmkd_nemo.distill.method import Batch, ModelShape
from glmkd_nemo.distill.placement import LayoutRefused
from glmkd_nemo.distill.taps import Edits, TapKey, record
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.glm import GLMModel


def shape_of(config: GLMConfig) -> ModelShape:
    """The sizes that methods may depend on."""
    return ModelShape(
        config.num_layers, config.hidden_size, config.num_attention_heads, config.vocab_size
    )


class Teacher:
    """A ``GLMModel`` that only ever runs forward.

    It is not an ``nn.Module``, so that no optimizer, checkpoint or ``.train()`` reaches it.

    Args:
        model: this rank's stage and shard, weights loaded.
        trainable: it learns with its student, from the soft labels (GLMKD's option; its module
            then has to be a :class:`LiveTeachers` member of the student's).

    Raises:
        LayoutRefused: a trainable teacher under pipeline parallelism.
    """

    def __init__(self, model: GLMModel, trainable: bool = False) -> None:
        if trainable and len(model.config.split) > 1:
            raise LayoutRefused(
                "a trainable teacher needs all its layers on one stage, as its lane through the "
                "pipeline is forward only: set model.pipeline_model_parallel_size=1, or "
                "trainable=false."
            )
        self.trainable = trainable
        self.model = model if trainable else model.eval().requires_grad_(False)
        self.config: GLMConfig = model.config

    def forward(
        self,
        batch: Batch,
        want: Collection[TapKey],
        received: Tensor | None,
        edits: Edits | None = None,
    ) -> tuple[Any, dict[TapKey, Any]]:
        """Runs this stage.

        Args:
            batch: the micro-batch.
            want: taps of this stage's layers.
            received: activation of the stage before; ``None`` on the first.
            edits: changes of tensors inside the pass.

        Returns:
            What goes to the next stage (on the last: a ``Logits`` handle), and the taps.
        """
        if received is not None:
            self.model.set_input_tensor(received)
        learns = self.trainable and torch.is_grad_enabled()
        with (
            torch.set_grad_enabled(learns),
            record(want, self.config.sequence_parallel, edits) as taps,
        ):
            output = self.model(
                batch.input_ids,
                batch.position_ids,
                batch.attention_mask,
                materialize=False,
                task=batch.task,
            )
        return output, taps


class LiveTeachers(nn.ModuleDict):
    """Trainable teachers as a member of the student, so that DDP and the optimizer reach them."""

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Nothing: the weights of a student do not include what distils it."""
        return {}

    def state(self, prefix: str) -> dict[str, Any]:
        """Their weights as sharded tensors, for the checkpoints of a run."""
        found: dict[str, Any] = {}
        for name, teacher in self.items():
            assert isinstance(teacher, GLMModel)
            found |= teacher.sharded_state_dict(prefix=f"{prefix}{name}.")
        return found
