"""A layer with MobileBERT's inverted bottleneck (arXiv 2004.02984, section 3.1).

Between layers the residual stream is ``hidden_size`` wide, inside a layer ``bottleneck_size``:
narrower in the student, wider in its teacher (IB-BERT). As in the reference, and unlike in the
paper, the layer normalises its input (pre-layernorm), queries, keys and values are projected from
the wide stream directly, and a layernorm stands before the projection back.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules
from torch import Tensor

from glmkd_nemo.engine.norm import LocalLayerNorm
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.layers import GLMLayer
from glmkd_nemo.models.mask import AttentionMask
from glmkd_nemo.models.replicated import ReplicatedLinear


def bottleneck_spec(spec: ModuleSpec, ffns: int) -> ModuleSpec:
    """The bottleneck form of a layer.

    Args:
        spec: of a plain or a fused layer.
        ffns: number of feed-forward networks.
    """
    inside, outside = spec.submodules, copy.deepcopy(spec.submodules)
    outside.self_attention.submodules.linear_proj = IdentityOp
    outside.pre_mlp_layernorm = outside.mlp = IdentityOp  # these are built at the inner width
    names = outside.sharded_state_dict_keys_map
    if fused := names.get("pre_mlp_layernorm."):
        for i in range(ffns - 1):
            names[f"more_ffns.{i}.layernorm."] = f"more_ffns.{i}.{fused}"
    return ModuleSpec(BottleneckLayer, params={"inside": inside}, submodules=outside)


class BottleneckLayer(GLMLayer):
    """Attention and ``bottleneck_ffns`` feed-forward networks at the inner width.

    Taps are those of a plain layer: ``hidden`` and ``layer_output`` are ``hidden_size`` wide,
    heads have ``bottleneck_size / num_attention_heads`` elements.

    Args:
        config: of the model.
        submodules: what is built at the width of the residual stream.
        inside: the whole layer's, of which the rest is built at the inner width.
        layer_number: from 1 within the stage.
    """

    def __init__(
        self,
        config: GLMConfig,
        submodules: TransformerLayerSubmodules,
        inside: TransformerLayerSubmodules,
        layer_number: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, submodules, layer_number, **kwargs)
        inner = copy.copy(config)
        inner.hidden_size = config.inner_size
        self.self_attention.linear_proj = _projection(inside, inner, self.tp_group)
        self.pre_mlp_layernorm = _layernorm(inside, inner)
        self.mlp = _mlp(inside, inner, self.tp_group)
        self.more_ffns = _FeedForwards(inside, inner, config.bottleneck_ffns - 1, self.tp_group)
        wide, narrow = config.hidden_size, config.inner_size
        self.linear_in = ReplicatedLinear(wide, narrow, config, on_slices=True)
        self.linear_out_layernorm = LocalLayerNorm(inner, narrow, eps=config.layernorm_epsilon)
        self.linear_out = ReplicatedLinear(narrow, wide, config, on_slices=True)

    def compute(
        self,
        hidden_states: Tensor,
        attention_mask: AttentionMask,
        inference_context: Any = None,
        **unused: Any,
    ) -> tuple[Tensor, None]:
        """Runs the layer.

        Args:
            hidden_states: ``[s, b, h]``, or this rank's slice of ``s``.
            attention_mask: of the forward pass.
            inference_context: Megatron-Core's key-value cache, for generation.
            unused: what Megatron-Core hands to other kinds of layers.

        Returns:
            The same shape, and no context.
        """
        attended = self.self_attention(
            self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            inference_context=inference_context,
        )
        add = self.self_attn_bda(self.training, self.config.bias_dropout_fusion)
        inner = add(attended, self.linear_in(hidden_states), self.hidden_dropout)
        inner = self.more_ffns(self._forward_mlp(inner))
        return hidden_states + self.linear_out(self.linear_out_layernorm(inner)), None


class _FeedForwards(MegatronModule):
    """Feed-forward networks one after the other; a container that saves its shards as such."""

    def __init__(
        self, spec: TransformerLayerSubmodules, inner: GLMConfig, count: int, tp_group: Any
    ) -> None:
        super().__init__(config=inner)
        self.count = count
        for i in range(count):
            self.add_module(str(i), _FeedForward(spec, inner, tp_group))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.count):
            x = self.get_submodule(str(i))(x)
        return x


class _FeedForward(MegatronModule):
    """Layernorm, feed-forward network, residual: ``[s, b, inner]`` to the same."""

    def __init__(self, spec: TransformerLayerSubmodules, inner: GLMConfig, tp_group: Any) -> None:
        super().__init__(config=inner)
        self.layernorm = _layernorm(spec, inner)
        self.mlp = _mlp(spec, inner, tp_group)
        self.bda = build_module(spec.mlp_bda)

    def forward(self, x: Tensor) -> Tensor:
        add = self.bda(self.training, self.config.bias_dropout_fusion)
        out: Tensor = add(self.mlp(self.layernorm(x)), x, self.config.hidden_dropout)
        return out


def _projection(
    spec: TransformerLayerSubmodules, inner: GLMConfig, tp_group: Any
) -> torch.nn.Module:
    return build_module(
        spec.self_attention.submodules.linear_proj,
        inner.hidden_size,
        inner.hidden_size,
        config=inner,
        init_method=inner.output_layer_init_method,
        bias=inner.add_bias_linear,
        input_is_parallel=True,
        skip_bias_add=True,
        is_expert=False,
        tp_comm_buffer_name="proj",
        tp_group=tp_group,
    )


def _layernorm(spec: TransformerLayerSubmodules, inner: GLMConfig) -> torch.nn.Module:
    return build_module(
        spec.pre_mlp_layernorm,
        config=inner,
        hidden_size=inner.hidden_size,
        eps=inner.layernorm_epsilon,
    )


def _mlp(spec: TransformerLayerSubmodules, inner: GLMConfig, tp_group: Any) -> torch.nn.Module:
    return build_module(
        spec.mlp, config=inner, ffn_hidden_size=inner.ffn_hidden_size, tp_group=tp_group
    )
