"""Tiny models and batches for tests of the model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from megatron.core import tensor_parallel
from torch import Tensor

from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel

VOCAB, SEQUENCE = 125, 7
SECTION: dict[str, Any] = {  # the `model` section of a configuration
    "num_layers": 3,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "init_method_std": 0.3,
}


def config(**changes: Any) -> GLMConfig:
    """The configuration of the section above with changes."""
    return glm_config_from_cfg({**SECTION, **changes}, VOCAB)


def reseed() -> None:
    """The same draws from here on."""
    torch.manual_seed(3)
    tensor_parallel.model_parallel_cuda_manual_seed(3)


def model(tapped: Collection[int] = (), **changes: Any) -> GLMModel:
    """A float64 model; equal sizes, equal weights."""
    reseed()
    return GLMModel(config(**changes), tapped_layers=tapped).double()


def batch() -> dict[str, Tensor]:
    """Two samples with contexts of different lengths."""
    g = torch.Generator().manual_seed(1)
    position = torch.arange(SEQUENCE).expand(2, SEQUENCE)
    block = (position - 3).clamp(min=0)
    return {
        "input_ids": torch.randint(VOCAB, (2, SEQUENCE), generator=g),
        "position_ids": torch.stack([position, block], 1),
        "attention_mask": torch.tensor([3, 5]),
    }


def labels() -> Tensor:
    """``[b, s]``."""
    return torch.randint(VOCAB, (2, SEQUENCE), generator=torch.Generator().manual_seed(2))
