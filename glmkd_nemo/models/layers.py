"""A GLM transformer layer: Megatron-Core's, with taps and a recompute that keeps them."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from glmkd_nemo.distill.taps import recomputed, tap, untapped


class GLMLayer(TransformerLayer):
    """Pre-layernorm layer that taps ``hidden`` (the output of its input layernorm)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stand_ins: list[GLMLayer] = []  # layers that run in this one's place
        if not isinstance(self.input_layernorm, IdentityOp):  # not fused into the QKV projection
            self.input_layernorm.register_forward_hook(self._tap_hidden)

    def _tap_hidden(self, module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return tap(output, "hidden", self.layer_number - 1)

    def _recomputes(self) -> bool:
        if self.config.recompute != "full" or not self.training or not torch.is_grad_enabled():
            return False
        first_here = sum(self.config.split[: self._stage()])
        count = self.config.recompute_layers
        return count is None or self.layer_number - 1 - first_here < count

    def _stage(self) -> int:
        return torch.distributed.get_rank(self.pg_collection.pp)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Megatron-Core's forward, recomputed in the backward where the configuration says so."""
        if self.stand_ins:
            return self._stood_in(*args, **kwargs)
        if self._recomputes():
            hidden, context = recomputed(self.compute, *args, **kwargs)
        else:
            hidden, context = self.compute(*args, **kwargs)
        return tap(hidden, "layer_output", self.layer_number - 1), context

    def _stood_in(self, *args: Any, **kwargs: Any) -> Any:
        """Runs other layers instead; what they would tap is not this model's."""
        hidden = kwargs.pop("hidden_states") if "hidden_states" in kwargs else args[0]
        with untapped():
            for layer in self.stand_ins:
                hidden, context = layer(hidden, *args[1:], **kwargs)
        return tap(hidden, "layer_output", self.layer_number - 1), context

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer does, without recompute; other forms of a layer override it."""
        return super().forward(*args, **kwargs)
