"""LayerNorm for the local (non Transformer Engine) layer spec."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class LocalLayerNorm(torch.nn.LayerNorm):
    """``torch.nn.LayerNorm`` with mcore's signature that also works under sequence parallelism.

    Under sequence parallelism each tensor-parallel rank normalises its own part of the sequence,
    so the gradients of weight and bias must be summed over the ranks: mcore's
    ``finalize_model_grads`` does so for parameters marked ``sequence_parallel``. mcore's own torch
    norm (``WrappedTorchNorm``) refuses sequence parallelism instead.

    Shapes: input and output ``[s, b, h]``.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **ignored: Any
    ) -> None:
        super().__init__(hidden_size, eps=eps)
        if config.layernorm_zero_centered_gamma:
            raise ValueError(
                "layernorm_zero_centered_gamma needs Transformer Engine: set it to false or "
                "transformer_engine to true"
            )
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
