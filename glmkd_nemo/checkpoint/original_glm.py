"""Names and layouts of the original GLM's weights, both ways, on whole (unsharded) tensors.

The original keeps query, key and value as three blocks of rows; Megatron-Core interleaves them by
head. Everything else is a change of name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.models.glm import GLMModel

WORD_EMBEDDINGS = "embedding.word_embeddings.weight"
_WHOLE = {
    "word_embeddings.weight": WORD_EMBEDDINGS,
    "transformer.position_embeddings.weight": "embedding.position_embeddings.weight",
    "transformer.block_position_embeddings.weight": "embedding.block_position_embeddings.weight",
    "transformer.final_layernorm.weight": "decoder.final_layernorm.weight",
    "transformer.final_layernorm.bias": "decoder.final_layernorm.bias",
}
_LAYER = {
    "input_layernorm": "input_layernorm",
    "attention.query_key_value": "self_attention.linear_qkv",
    "attention.dense": "self_attention.linear_proj",
    "post_attention_layernorm": "pre_mlp_layernorm",
    "mlp.dense_h_to_4h": "mlp.linear_fc1",
    "mlp.dense_4h_to_h": "mlp.linear_fc2",
}
_WHOLE_BACK = {ours: original for original, ours in _WHOLE.items()}
_LAYER_BACK = {ours: original for original, ours in _LAYER.items()}
_ORIGINAL_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.+)\.(weight|bias)")
_OUR_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def from_original(state: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Original state dict -> ours (layers numbered over the whole model).

    Args:
        state: whole tensors under original names.
        heads: number of attention heads.

    Raises:
        ValueError: a name that no plain GLM has.
    """
    return {our_name(n): _qkv(n, t, heads, _interleave) for n, t in state.items()}


def to_original(state: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Ours -> original names and layout; the inverse of :func:`from_original`."""
    return {original_name(n): _qkv(n, t, heads, _deinterleave) for n, t in state.items()}


def our_name(name: str) -> str:
    """Our name of an original weight. Raises ValueError where a plain GLM has no such weight."""
    if name in _WHOLE:
        return _WHOLE[name]
    match = _ORIGINAL_LAYER.fullmatch(name)
    if match is None or match[2] not in _LAYER:
        raise ValueError(f"{name!r} is no weight of a plain GLM")
    return f"decoder.layers.{match[1]}.{_LAYER[match[2]]}.{match[3]}"


def original_name(name: str) -> str:
    """Original name of one of our weights. Raises ValueError for a name that is not ours."""
    if name in _WHOLE_BACK:
        return _WHOLE_BACK[name]
    match = _OUR_LAYER.fullmatch(name)
    if match is None or match[2] not in _LAYER_BACK:
        raise ValueError(f"{name!r} is no weight of a plain GLM")
    return f"transformer.layers.{match[1]}.{_LAYER_BACK[match[2]]}.{match[3]}"


def _qkv(name: str, t: Tensor, heads: int, permute: Callable[[Tensor, int], Tensor]) -> Tensor:
    return permute(t, heads) if "query_key_value" in name or "linear_qkv" in name else t


def _interleave(t: Tensor, heads: int) -> Tensor:
    return t.view(3, heads, -1, *t.shape[1:]).transpose(0, 1).reshape(t.shape)


def _deinterleave(t: Tensor, heads: int) -> Tensor:
    return t.view(heads, 3, -1, *t.shape[1:]).transpose(0, 1).reshape(t.shape)


def original_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes read off an original state dict, under the key names of the ``model`` section."""
    layers = [int(m[1]) for n in state if (m := _ORIGINAL_LAYER.fullmatch(n))]
    vocab, hidden = state["word_embeddings.weight"].shape
    return {
        "num_layers": max(layers) + 1,
        "hidden_size": hidden,
        "ffn_hidden_size": state["transformer.layers.0.mlp.dense_h_to_4h.weight"].shape[0],
        "vocab_size": vocab,
        "max_position_embeddings": state["transformer.position_embeddings.weight"].shape[0] - 1,
    }


def whole_model_name(model: GLMModel, name: str) -> str:
    """Name of a stage's parameter in the whole model: global layer number, tied head merged."""
    if name == "output_layer.weight":
        return WORD_EMBEDDINGS
    if match := _OUR_LAYER.fullmatch(name):
        return f"decoder.layers.{int(match[1]) + model.layers.start}.{match[2]}.{match[3]}"
    return name


@torch.no_grad()
def load_whole(model: GLMModel, state: Mapping[str, Tensor]) -> None:
    """Copies this rank's shard of whole tensors (our names) into a model.

    Raises:
        ValueError: a weight of the model is missing from ``state`` or has another size, or the
            state has a layer that the model has not.
    """
    rows = state[WORD_EMBEDDINGS].shape[0] if WORD_EMBEDDINGS in state else 0
    if rows < model.config.vocab_size:
        raise ValueError(f"{WORD_EMBEDDINGS}: {rows} rows for {model.config.vocab_size} tokens")
    for name in state:
        match = _OUR_LAYER.fullmatch(name)
        if match and int(match[1]) >= model.config.num_layers:
            raise ValueError(f"{name}: the model has {model.config.num_layers} layers")
    for name, parameter in model.named_parameters():
        whole_name = whole_model_name(model, name)
        if whole_name not in state:
            raise ValueError(f"the checkpoint has no {whole_name!r}")
        part = _shard(state[whole_name], parameter, whole_name)
        if part.shape != parameter.shape:
            raise ValueError(
                f"{whole_name}: the checkpoint's shard is {tuple(part.shape)}, the model's "
                f"{tuple(parameter.shape)}"
            )
        parameter.copy_(part)


def _shard(whole: Tensor, parameter: Tensor, name: str) -> Tensor:
    """This rank's part; rows that only pad the vocabulary are zero."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return whole
    dim = int(parameter.partition_dim)  # type: ignore[attr-defined]
    size = parallel_state.get_tensor_model_parallel_world_size()
    missing = parameter.shape[dim] * size - whole.shape[dim]
    if missing > 0 and name == WORD_EMBEDDINGS:
        whole = torch.cat([whole, whole.new_zeros(missing, whole.shape[1])])
    return whole.chunk(size, dim)[parallel_state.get_tensor_model_parallel_rank()]
