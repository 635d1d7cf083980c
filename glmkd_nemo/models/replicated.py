"""A linear map that every tensor-parallel rank holds whole."""

from __future__ import annotations

import torch
from torch import nn

from glmkd_nemo.models.config import GLMConfig


class ReplicatedLinear(nn.Linear):
    """``[.., inputs] -> [.., outputs]`` without communication, for maps that are small.

    Under sequence parallelism a rank either sees all positions (then its gradients are whole), or
    its slice of them; in that case they are marked to be summed over the ranks by Megatron-Core's
    ``finalize_model_grads``, as those of layernorms are.

    Args:
        inputs, outputs: sizes.
        config: of the model.
        on_slices: whether the input is a slice under sequence parallelism.
    """

    def __init__(self, inputs: int, outputs: int, config: GLMConfig, on_slices: bool) -> None:
        super().__init__(inputs, outputs, dtype=config.params_dtype)
        with torch.no_grad():
            config.init_method(self.weight)
            self.bias.zero_()
        for parameter in self.parameters():
            marked = on_slices and config.sequence_parallel
            parameter.sequence_parallel = marked  # type: ignore[attr-defined]
