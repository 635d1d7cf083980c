"""A frozen teacher, its shard living beside the student's on the same ranks."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from glmkd_nemo.distill.method import Batch, ModelShape
from glmkd_nemo.distill.offload import OffloadedLayers
from glmkd_nemo.distill.placement import FINAL, LayoutRefused
from glmkd_nemo.distill.taps import Edits, TapKey, record
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.glm import GLMModel


def shape_of(config: GLMConfig) -> ModelShape:
    """The sizes that methods may depend on."""
    return ModelShape(
        config.num_layers, config.hidden_size, config.num_attention_heads, config.vocab_size
    )


class Teacher:
    """A ``GLMModel`` that only ever runs forward, and no farther than somebody needs.

    It is not an ``nn.Module``, so that no optimizer, checkpoint or ``.train()`` reaches it.

    Args:
        model: this rank's stage and shard, weights loaded.
        trainable: it learns with its student, from the soft labels (GLMKD's option; its module
            then has to be a :class:`LiveTeachers` member of the student's).
        offloaded: the stage's layers, if their weights are in the host's memory.

    Raises:
        LayoutRefused: a trainable teacher under pipeline parallelism.
    """

    def __init__(
        self, model: GLMModel, trainable: bool = False, offloaded: OffloadedLayers | None = None
    ) -> None:
        if trainable and len(model.config.split) > 1:
            raise LayoutRefused(
                "a trainable teacher needs all its layers on one stage, as its lane through the "
                "pipeline is forward only: set model.pipeline_model_parallel_size=1, or "
                "trainable=false."
            )
        self.trainable, self._offloaded = trainable, offloaded
        self.model = model if trainable else model.eval().requires_grad_(False)
        self.config: GLMConfig = model.config

    def forward(
        self,
        batch: Batch,
        want: Collection[TapKey],
        received: Tensor | None,
        edits: Edits | None = None,
        passes_on: bool = False,
    ) -> tuple[Any, dict[TapKey, Any]]:
        """Runs this stage, or as much of it as is needed.

        Args:
            batch: the micro-batch.
            want: taps of this stage's layers.
            received: activation of the stage before; ``None`` on the first.
            edits: changes of tensors inside the pass.
            passes_on: whether a later stage needs what this one puts out; otherwise a frozen
                teacher's pass ends at the last wanted tap, and the layers after it do not run.

        Returns:
            What goes to the next stage (on the last: a ``Logits`` handle; ``None`` if the pass
            ended before), and the taps.
        """
        if received is not None:
            self.model.set_input_tensor(received)
        learns = self.trainable and torch.is_grad_enabled()
        stop = not (passes_on or self.trainable)
        output: Any = None
        with (
            torch.set_grad_enabled(learns),
            self._weights(None if passes_on else want),
            record(want, self.config.sequence_parallel, edits, stop) as taps,
        ):
            output = self.model(
                batch.input_ids,
                batch.position_ids,
                batch.attention_mask,
                materialize=False,
                task=batch.task,
            )
        return output, taps

    def _weights(self, want: Collection[TapKey] | None) -> AbstractContextManager[None]:
        """Inside, the layers that serve these taps (``None``: all of the stage) have weights."""
        if self._offloaded is None:
            return nullcontext()
        return self._offloaded.streamed(layers_needed(want, self.model.layers))


def layers_needed(want: Collection[TapKey] | None, layers: range) -> int:
    """How many of a stage's layers run for some taps.

    Args:
        want: taps of this stage; ``None``: its output.
        layers: of the stage, counted over the whole model.
    """
    if want is None or any(key[0] in FINAL for key in want):
        return len(layers)
    return max((layer + 1 - layers.start for _, layer in want if layer is not None), default=0)


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
