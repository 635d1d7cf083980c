"""Layers with one set of weights (ALBERT, arXiv 1909.11942, section 3.1), on any pipeline layout.

Each layer stays a module of its own, with its own number, taps and recompute, but its parameters
are the objects of the stage's first layer. Every stage holds a copy: copies start equal, and get
the sum of the gradients of all stages. A checkpoint has the weights once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.utils import replace_prefix_for_sharding
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import nn

from glmkd_nemo.distill.pipeline import mark_shared, sum_over_stages

KEY = "shared_layer."  # of the one layer in a sharded checkpoint


class GLMBlock(TransformerBlock):
    """The layers of a stage, with their own weights or, with ``share_layers``, with one set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shares = bool(self.config.share_layers) and len(self.layers) > 0
        if not self.shares:
            return
        share(self.layers)
        self.register_state_dict_post_hook(_leave_out_copies)
        self.register_load_state_dict_pre_hook(_put_in_copies)
        if parallel_state.get_pipeline_model_parallel_world_size() > 1:
            mark_shared(self.layers[0])
            if all(self.config.split):  # a frozen teacher's empty stage has nothing to agree on
                _start_equal(self.layers[0])

    def num_copied_parameters(self) -> int:
        """Parameters of this stage that are copies of the first stage's."""
        if not self.shares or parallel_state.get_pipeline_model_parallel_rank() == 0:
            return 0
        return sum(p.numel() for p in self.layers[0].parameters())

    def sum_gradients(self) -> None:
        """Adds up the gradients of all stages' copies; before the data-parallel reduction.

        Raises:
            ValueError: a stage has no layer, so that it cannot take part.
        """
        if not self.config.share_layers:
            return
        if not all(self.config.split):
            raise ValueError(
                f"share_layers: pipeline stages of {self.config.split} layers cannot train one "
                "set of weights: lower pipeline_model_parallel_size."
            )
        sum_over_stages(self.layers[0])

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> dict[str, Any]:
        """As Megatron-Core's; shared weights appear once and are written by the first stage."""
        state: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        if not self.shares:
            return state
        first = f"{prefix}layers.0."
        one = self.layers[0].sharded_state_dict(first, (), metadata)
        one = {name: value for name, value in one.items() if not _is_extra(name)}
        replace_prefix_for_sharding(one, first, f"{prefix}{KEY}")
        stage = parallel_state.get_pipeline_model_parallel_rank()
        own = {n: replace(t, replica_id=(stage, *t.replica_id[1:])) for n, t in one.items()}
        others = (n for n in state if not n.startswith(f"{prefix}layers.") or _is_extra(n))
        return {**{name: state[name] for name in others}, **own}


def share(layers: Sequence[nn.Module]) -> None:
    """Makes all layers (of one kind) use the parameters of the first."""
    for name, parameter in layers[0].named_parameters():
        owner, _, leaf = name.rpartition(".")
        for layer in layers[1:]:
            setattr(layer.get_submodule(owner), leaf, parameter)


@torch.no_grad()
def _start_equal(layer: nn.Module) -> None:
    group = parallel_state.get_pipeline_model_parallel_group()
    source = parallel_state.get_pipeline_model_parallel_first_rank()
    for parameter in layer.parameters():
        value = parameter.detach().to(torch.cuda.current_device())
        dist.broadcast(value, src=source, group=group)
        parameter.copy_(value)


def _is_extra(name: str) -> bool:
    """Whether it is state of one layer only (Transformer Engine's fp8 scales)."""
    return name.endswith("_extra_state")


def _leave_out_copies(block: GLMBlock, state: dict[str, Any], prefix: str, *ignored: Any) -> None:
    for i in range(1, len(block.layers)):
        for name in [n for n in state if n.startswith(f"{prefix}layers.{i}.")]:
            if not _is_extra(name):
                del state[name]


def _put_in_copies(block: GLMBlock, state: dict[str, Any], prefix: str, *ignored: Any) -> None:
    first = f"{prefix}layers.0."
    for name in [n for n in state if n.startswith(first) and not _is_extra(n)]:
        for i in range(1, len(block.layers)):
            state.setdefault(f"{prefix}layers.{i}.{name.removeprefix(first)}", state[name])
