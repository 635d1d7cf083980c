"""The section ``model`` of a checkpoint: what its tensors tell, what it says, and what is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from glmkd_nemo.checkpoint.convert_settings import Request
from glmkd_nemo.checkpoint.huggingface import check_plain
from glmkd_nemo.checkpoint.original_glm import original_sizes
from glmkd_nemo.checkpoint.whole import Weights
from glmkd_nemo.config.schema import ModelSection
from glmkd_nemo.models.export import plain_glm_config

_TARGET = "glmkd_nemo.models.modelpt.GLMModelPT"
_NEEDS_HEADS = ("nemo", "sharded", "huggingface")
_DERIVED = ("make_vocab_size_divisible_by", "vocab_map")
_EPSILON = 1e-5  # of the original's and of Hugging Face's program
_LAYERS = "transformer.layers."
_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.+)")
_ALWAYS = (
    "word_embeddings.weight",
    "transformer.position_embeddings.weight",
    "transformer.block_position_embeddings.weight",
    "transformer.final_layernorm.weight",
    "transformer.final_layernorm.bias",
)
_EVERY_LAYER = tuple(
    f"{part}.{kind}"
    for part in (
        *("input_layernorm", "attention.query_key_value", "attention.dense"),
        *("post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    )
    for kind in ("weight", "bias")
)


def model_section(request: Request, weights: Weights) -> dict[str, Any]:
    """The section ``model``.

    Raises:
        ValueError: weights are missing, what is said contradicts the tensors, or the number of
            heads is unknown.
    """
    check_complete(weights)
    told, given = dict(weights.model), request.given
    sizes = _sizes(request, weights)
    for name in {*told, *given} & sizes.keys() - {*_DERIVED}:
        for value in (told.get(name), given.get(name)):
            if value is not None and value != sizes[name]:
                raise ValueError(
                    f"model.{name}={value}, but the tensors of {weights.origin} have {sizes[name]}."
                )
    heads = _heads(request, told)
    inner = sizes.get("bottleneck_size") or sizes["hidden_size"]
    _check_heads(heads, inner, request)
    defaults: Any = OmegaConf.to_container(OmegaConf.structured(ModelSection))
    section = {
        **defaults,
        "encoder_seq_length": sizes["max_position_embeddings"],
        **told,
        **given,
        **sizes,
        "tokenizer": {
            **defaults["tokenizer"],
            **(given.get("tokenizer") or told.get("tokenizer", {})),
        },
        "num_attention_heads": heads,
        "head": _head(request, weights) or told.get("head"),
    }
    _check_fixed(section, request)
    if request.format == "huggingface":
        check_plain(section)
    plain: Any = OmegaConf.to_container(plain_glm_config(OmegaConf.create(section), _TARGET))
    return dict(plain)


def check_complete(weights: Weights) -> None:
    """That no layer and no weight of a layer is missing, and that all are numbers to compute with.

    Raises:
        ValueError: names what is missing, or quantized.
    """
    for name, found in weights.metas.items():
        if not found.dtype.is_floating_point:
            raise ValueError(
                f"{weights.origin}: {name} is {found.dtype}, not floating-point: convert the "
                "checkpoint as it was before it was quantized."
            )
    layers: dict[int, set[str]] = {}
    for name in weights.metas:
        if match := _LAYER.fullmatch(name):
            layers.setdefault(int(match[1]), set()).add(match[2])
    wanted = {f"{_LAYERS}{i}.{n}" for i in range(max(layers, default=0) + 1) for n in _EVERY_LAYER}
    every = set().union(*layers.values())
    wanted |= {f"{_LAYERS}{i}.{n}" for i in layers for n in every} | set(_ALWAYS)
    if missing := sorted(wanted - weights.metas.keys()):
        raise ValueError(
            f"{weights.origin} lacks {len(missing)} weights of a GLM: {', '.join(missing[:8])}. "
            "Is the copy complete, and of a GLM with block positions?"
        )


def _sizes(request: Request, weights: Weights) -> dict[str, Any]:
    """What tensors tell."""
    depth = request.given.get("num_layers") or weights.model.get("num_layers")
    one_layer = f"{_LAYERS}1.{_EVERY_LAYER[0]}" not in weights.metas
    if one_layer and depth is None and (request.format in _NEEDS_HEADS or request.settings.verify):
        raise ValueError(
            f"{weights.origin} has the weights of one layer: give model.num_layers=..., how often "
            "an ALBERT runs it, or 1 if the model is so small."
        )
    sizes: dict[str, Any] = original_sizes(
        weights.metas, depth if one_layer and depth != 1 else None
    )
    rows = sizes.pop("vocab_size")
    sizes["make_vocab_size_divisible_by"] = min(rows & -rows, 128)
    if weights.tables is not None:
        unmapped = bool(_unmapped(request, weights))
        sizes["vocab_map"] = {"size": len(weights.tables.kept_ids), "unmap_output": unmapped}
    return sizes


def _unmapped(request: Request, weights: Weights) -> bool | None:
    if weights.tables is None:
        return None
    given = (request.given.get("vocab_map") or {}).get("unmap_output")
    told = (weights.model.get("vocab_map") or {}).get("unmap_output")
    if None not in (given, told) and given != told:
        raise ValueError(f"model.vocab_map.unmap_output={given}, but the source says {told}.")
    found = told if given is None else given
    if found is None and (request.format in ("nemo", "sharded") or request.settings.verify):
        raise ValueError(
            "whether the head of a model with a vocabulary map is unmapped cannot be seen in its "
            "tensors: give model.vocab_map.unmap_output=true or false (the original's "
            "--unmap_vocab_output)."
        )
    return None if found is None else bool(found)


def known_sizes(request: Request, weights: Weights, model: Mapping[str, Any]) -> dict[str, Any]:
    """Of the section ``model``, what tensors, source or user told: no default."""
    seen = ["hidden_size", "max_position_embeddings", "num_attention_heads"]
    if f"{_LAYERS}1.{_EVERY_LAYER[0]}" in weights.metas:
        seen.append("num_layers")
    known = {name: model[name] for name in seen} | {**weights.model, **request.given}
    return {**known, "vocab_map": {"unmap_output": _unmapped(request, weights)}}


def _check_fixed(section: Mapping[str, Any], request: Request) -> None:
    """What the other formats' programs have no option for."""
    epsilon = section["layernorm_epsilon"]
    if request.format in ("original", "huggingface") and epsilon != _EPSILON:
        raise ValueError(
            f"the model has layernorm_epsilon={epsilon}, and the programs that read "
            f"format={request.format} always use {_EPSILON}: use format=nemo or sharded."
        )


def _heads(request: Request, told: Mapping[str, Any]) -> int | None:
    heads, given = told.get("num_attention_heads"), request.given.get("num_attention_heads")
    if given and heads and given != heads:
        raise ValueError(
            f"model.num_attention_heads={given}, but the source says {heads}: leave it out."
        )
    if not (heads or given) and (request.format in _NEEDS_HEADS or request.settings.verify):
        raise ValueError(
            "how many attention heads the model has cannot be seen in its tensors: give "
            "model.num_attention_heads=... (of published GLMs, hidden_size / 64)."
        )
    return heads or given


def _check_heads(heads: int | None, inner: int, request: Request) -> None:
    if heads is None:
        return
    if heads < 1 or inner % heads:
        raise ValueError(
            f"model.num_attention_heads={heads} does not divide {inner}, the width of the "
            "attention: give the number that the model was trained with."
        )
    size = request.settings.model_parallel_size
    if request.format == "original" and heads % size:
        raise ValueError(f"model_parallel_size={size} does not divide the {heads} attention heads.")


def _head(request: Request, weights: Weights) -> dict[str, Any] | None:
    """The classifier that an original file has, as the section ``head``."""
    found = weights.metas.get("multichoice_head.weight")
    if found is None or weights.model.get("head"):
        return None
    if request.settings.pool is None and request.format in ("nemo", "sharded"):
        raise ValueError(
            "the checkpoint has a classifier: give pool=cls, start or pad, the position that it "
            "reads (the original's --pool-token)."
        )
    return {
        "kind": "pooled",
        "num_classes": found.shape[0],
        "pool": request.settings.pool or "cls",
    }
