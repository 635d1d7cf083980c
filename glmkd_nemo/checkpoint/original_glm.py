"""Names and layouts of the original GLM's weights, both ways, on whole (unsharded) tensors.

Plain GLM, ALBERT (factorised embedding, shared layers) and MobileBERT's inverted bottleneck, each
with or without a classifier. The original keeps query, key and value as three blocks of rows;
Megatron-Core interleaves them by head. Everything else is a change of name.
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
    "compress_emb_mlp.weight": "embedding.projection.weight",
    "compress_emb_mlp.bias": "embedding.projection.bias",
    "decompress_emb_mlp.weight": "output_projection.weight",
    "decompress_emb_mlp.bias": "output_projection.bias",
    "ib_emb_mlp.weight": "embedding.trigram.linear.weight",
    "ib_emb_mlp.bias": "embedding.trigram.linear.bias",
    "pool_layer.weight": "head.pooler.weight",
    "pool_layer.bias": "head.pooler.bias",
    "multichoice_head.weight": "head.classifier.weight",
    "multichoice_head.bias": "head.classifier.bias",
}
_LAYER = {
    "input_layernorm": "input_layernorm",
    "attention.query_key_value": "self_attention.linear_qkv",
    "attention.dense": "self_attention.linear_proj",
    "post_attention_layernorm": "pre_mlp_layernorm",
    "mlp.dense_h_to_4h": "mlp.linear_fc1",
    "mlp.dense_4h_to_h": "mlp.linear_fc2",
    "ib_linear_in": "linear_in",
    "ib_linear_out": "linear_out",
    "ib_linear_out_layernorm": "linear_out_layernorm",
    "ib_mlp_layernorm.#": "more_ffns.#.layernorm",
    "ib_mlp.#.dense_h_to_4h": "more_ffns.#.mlp.linear_fc1",
    "ib_mlp.#.dense_4h_to_h": "more_ffns.#.mlp.linear_fc2",
}  # "#" stands for a number
_WHOLE_BACK = {ours: original for original, ours in _WHOLE.items()}
_LAYER_BACK = {ours: original for original, ours in _LAYER.items()}
_ORIGINAL_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.+)\.(weight|bias)")
_NUMBERED = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_FUSED = {  # Transformer Engine's names of layernorms
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
}
_FUSED_MORE = re.compile(r"(more_ffns\.\d+\.)mlp\.linear_fc1\.layer_norm_")
_OUR_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def from_original(state: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Original state dict -> ours (layers numbered over the whole model).

    Args:
        state: whole tensors under original names.
        heads: number of attention heads.

    Raises:
        ValueError: a name that no GLM has.
    """
    return {our_name(n): _qkv(n, t, heads, _interleave) for n, t in state.items()}


def to_original(state: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Ours -> original names and layout; the inverse of :func:`from_original`."""
    return {original_name(n): _qkv(n, t, heads, _deinterleave) for n, t in state.items()}


def our_name(name: str) -> str:
    """Our name of an original weight. Raises ValueError where a GLM has no such weight."""
    return _renamed(name, _WHOLE, _ORIGINAL_LAYER, _LAYER, "decoder.layers")


def original_name(name: str) -> str:
    """Original name of one of our weights. Raises ValueError for a name that is not ours."""
    return _renamed(name, _WHOLE_BACK, _OUR_LAYER, _LAYER_BACK, "transformer.layers")


def _renamed(
    name: str,
    whole: Mapping[str, str],
    pattern: re.Pattern[str],
    layer: Mapping[str, str],
    prefix: str,
) -> str:
    if name in whole:
        return whole[name]
    if match := pattern.fullmatch(name):
        numbers = _NUMBER.findall(match[2])
        if new := layer.get(_NUMBER.sub("#", match[2])):
            return f"{prefix}.{match[1]}.{new.replace('#', ''.join(numbers))}.{match[3]}"
    raise ValueError(f"{name!r} is no weight of a GLM")


def _qkv(name: str, t: Tensor, heads: int, permute: Callable[[Tensor, int], Tensor]) -> Tensor:
    return permute(t, heads) if "query_key_value" in name or "linear_qkv" in name else t


def _interleave(t: Tensor, heads: int) -> Tensor:
    return t.view(3, heads, -1, *t.shape[1:]).transpose(0, 1).reshape(t.shape)


def _deinterleave(t: Tensor, heads: int) -> Tensor:
    return t.view(heads, 3, -1, *t.shape[1:]).transpose(0, 1).reshape(t.shape)


def original_sizes(
    state: Mapping[str, Tensor], shared_layers: int | None = None
) -> dict[str, int | bool]:
    """Sizes read off an original state dict, under the key names of the ``model`` section.

    Args:
        state: whole tensors under original names.
        shared_layers: depth of a model whose layers share one set of weights, which its weights
            do not tell.
    """
    layers = [int(m[1]) for n in state if (m := _ORIGINAL_LAYER.fullmatch(n))]
    positions, hidden = state["transformer.position_embeddings.weight"].shape
    vocab, width = state["word_embeddings.weight"].shape
    first = "transformer.layers.0."
    sizes: dict[str, int | bool] = {
        "num_layers": shared_layers or max(layers) + 1,
        "hidden_size": hidden,
        "ffn_hidden_size": state[f"{first}mlp.dense_h_to_4h.weight"].shape[0],
        "vocab_size": vocab,
        "max_position_embeddings": positions - 1,
    }
    if shared_layers:
        sizes["share_layers"] = True
    if "compress_emb_mlp.weight" in state:
        sizes["embedding_size"] = width
    if "ib_emb_mlp.weight" in state:
        sizes["bottleneck_word_embedding"] = state["ib_emb_mlp.weight"].shape[1] // 3
    if f"{first}ib_linear_in.weight" in state:
        sizes["bottleneck_size"] = state[f"{first}ib_linear_in.weight"].shape[0]
        norms = sum(name.startswith(f"{first}ib_mlp_layernorm.") for name in state) // 2
        sizes["bottleneck_ffns"] = 1 + norms
    return sizes


def whole_model_name(model: GLMModel, name: str) -> str:
    """Name of a stage's parameter in the whole model: global layer number, tied head merged."""
    if name == "output_layer.weight":
        return WORD_EMBEDDINGS
    if match := _NUMBERED.fullmatch(name):
        number = 0 if model.config.share_layers else int(match[1]) + model.layers.start
        return f"decoder.layers.{number}.{match[2]}"
    return name


def plain_name(name: str) -> str:
    """A weight's name in a layer of separate modules, whichever kind of layer has it."""
    name = _FUSED_MORE.sub(r"\1layernorm.", name)
    for fused, plain in _FUSED.items():
        name = name.replace(fused, plain)
    return name


@torch.no_grad()
def load_whole(model: GLMModel, state: Mapping[str, Tensor]) -> None:
    """Copies this rank's shard of whole tensors (our names) into a model.

    Raises:
        ValueError: a weight of the model is missing from ``state`` or has another size, or the
            state has a layer that the model has not.
    """
    rows = state[WORD_EMBEDDINGS].shape[0] if WORD_EMBEDDINGS in state else 0
    if rows < model.config.word_rows:
        raise ValueError(f"{WORD_EMBEDDINGS}: {rows} rows for {model.config.word_rows} tokens")
    for name in state:
        match = _OUR_LAYER.fullmatch(name)
        if match and int(match[1]) >= model.config.num_layers:
            raise ValueError(f"{name}: the model has {model.config.num_layers} layers")
    for name, parameter in model.named_parameters():
        whole_name = plain_name(whole_model_name(model, name))
        if whole_name not in state:
            raise ValueError(f"the checkpoint has no {whole_name!r}")
        part = shard_of(state[whole_name], parameter, whole_name)
        if part.shape != parameter.shape:
            raise ValueError(
                f"{whole_name}: the checkpoint's shard is {tuple(part.shape)}, the model's "
                f"{tuple(parameter.shape)}"
            )
        parameter.copy_(part)


def shard_of(whole: Tensor, parameter: Tensor, name: str) -> Tensor:
    """This rank's part of a whole tensor; rows that only pad the vocabulary are zero."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return whole
    dim = int(parameter.partition_dim)  # type: ignore[attr-defined]
    size = parallel_state.get_tensor_model_parallel_world_size()
    missing = parameter.shape[dim] * size - whole.shape[dim]
    if missing > 0 and name == WORD_EMBEDDINGS:
        whole = torch.cat([whole, whole.new_zeros(missing, whole.shape[1])])
    return whole.chunk(size, dim)[parallel_state.get_tensor_model_parallel_rank()]
