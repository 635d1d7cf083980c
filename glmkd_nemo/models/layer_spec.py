"""Which modules a GLM layer is built from.

Transformer Engine's fused layers where it is present; Megatron-Core's local layers elsewhere, and
for the layers that a distillation method taps: a fused layer never materialises the tensors to tap.
Both kinds keep one checkpoint layout (Megatron-Core maps the key names).
"""

from __future__ import annotations

from collections.abc import Collection

from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

from glmkd_nemo.engine.norm import LocalLayerNorm
from glmkd_nemo.models.attention import PrefixAttention
from glmkd_nemo.models.bottleneck import bottleneck_spec
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.layers import GLMLayer


def plain_layer_spec() -> ModuleSpec:
    """A layer of separate modules, each of whose tensors can be tapped."""
    spec = get_gpt_layer_local_spec(normalization="LayerNorm")
    spec.submodules.input_layernorm = LocalLayerNorm
    spec.submodules.pre_mlp_layernorm = LocalLayerNorm
    return _with_prefix_attention(spec)


def fused_layer_spec() -> ModuleSpec:
    """Transformer Engine's layer: layernorm fused into the projections, FP8 where configured."""
    return _with_prefix_attention(get_gpt_layer_with_transformer_engine_spec())


def _with_prefix_attention(spec: ModuleSpec) -> ModuleSpec:
    spec.module = GLMLayer
    spec.submodules.self_attention.params["attn_mask_type"] = AttnMaskType.arbitrary
    spec.submodules.self_attention.submodules.core_attention = PrefixAttention
    return spec


def block_spec(
    config: GLMConfig, layers: range, tapped_layers: Collection[int]
) -> TransformerBlockSubmodules:
    """The layers of one pipeline stage.

    Args:
        config: says whether Transformer Engine is used.
        layers: global indices of the stage's layers.
        tapped_layers: those of which a tensor is tapped; they get the plain form.

    Raises:
        ValueError: fp8 is asked for, and no layer has the fused form.
    """
    if config.share_layers and tapped_layers:
        tapped_layers = range(config.num_layers)  # weights can be shared by layers of one kind only
    if config.fp8 and all(i in tapped_layers for i in range(config.num_layers)):
        raise ValueError(
            f"fp8=true: all {config.num_layers} layers of this model are tapped by the terms of "
            "model.distill, and a tapped layer computes without fp8: set fp8=false, or tap fewer "
            "layers."
        )
    specs = [
        fused_layer_spec()
        if config.transformer_engine and i not in tapped_layers
        else plain_layer_spec()
        for i in layers
    ]
    if config.bottleneck_size is not None:
        specs = [bottleneck_spec(spec, config.bottleneck_ffns) for spec in specs]
    if not config.transformer_engine:
        return TransformerBlockSubmodules(layer_specs=specs, layer_norm=LocalLayerNorm)
    from megatron.core.extensions.transformer_engine import TENorm

    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=TENorm)
