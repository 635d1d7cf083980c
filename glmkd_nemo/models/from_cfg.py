"""From the ``model`` section of the YAML to a :class:`GLMConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from glmkd_nemo.engine.precision import fp8_settings, precision_name
from glmkd_nemo.models.config import GLMConfig, pipeline_layout
from glmkd_nemo.models.vocab_map import kept_size

_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32}


def glm_config_from_cfg(
    cfg: Mapping[str, Any],
    vocab_size: int,
    *,
    parallel: Mapping[str, Any] | None = None,
    split: list[int] | None = None,
    precision: Any = None,
) -> GLMConfig:
    """Builds the configuration of a model.

    Args:
        cfg: the ``model`` section, NeMo's key names.
        vocab_size: real size of the tokenizer's vocabulary.
        parallel: where TP, PP, SP and precision are taken from (default: ``cfg``). A teacher takes
            them from its student.
        split: layers per pipeline stage (default: even).
        precision: the model's own, where it is another one than that of ``parallel``.

    Raises:
        ValueError: impossible sizes, or fp8 without Transformer Engine or at sizes that it lacks.
    """
    on_gpu = torch.cuda.is_available()
    return GLMConfig(
        vocab_size=vocab_size,
        transformer_engine=use_transformer_engine(cfg.get("transformer_engine")),
        use_cpu_initialization=not on_gpu,
        bias_dropout_fusion=on_gpu,
        fused_head_rows=cfg.get("fused_head_rows"),
        **_sizes(cfg),
        **_vocab_map(cfg, vocab_size),
        **_regularisation(cfg),
        **_parallel(cfg if parallel is None else parallel, split, precision),
        **_fp8(cfg, int((parallel or cfg).get("tensor_model_parallel_size", 1))),
    )


def _sizes(cfg: Mapping[str, Any]) -> dict[str, Any]:
    inner = cfg.get("bottleneck_size") or cfg["hidden_size"]
    return {
        "num_layers": cfg["num_layers"],
        "hidden_size": cfg["hidden_size"],
        "ffn_hidden_size": cfg.get("ffn_hidden_size") or 4 * inner,
        "num_attention_heads": cfg["num_attention_heads"],
        "max_position_embeddings": cfg["max_position_embeddings"],
        "make_vocab_size_divisible_by": cfg.get("make_vocab_size_divisible_by", 128),
        "attention_scale": cfg.get("attention_scale", 1.0),
        "layernorm_epsilon": cfg.get("layernorm_epsilon", 1e-5),
        "init_method_std": cfg.get("init_method_std", 0.02),
        "embedding_size": cfg.get("embedding_size"),
        "share_layers": cfg.get("share_layers", False),
        "bottleneck_size": cfg.get("bottleneck_size"),
        "bottleneck_ffns": cfg.get("bottleneck_ffns") or 1,
        "bottleneck_word_embedding": cfg.get("bottleneck_word_embedding"),
    }


def _vocab_map(cfg: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    section = cfg.get("vocab_map")
    if not section:
        return {}
    multiple = cfg.get("make_vocab_size_divisible_by", 128)
    return {
        "mapped_vocab_size": kept_size(section.get("size"), vocab_size, multiple),
        "unmap_vocab_output": bool(section.get("unmap_output")),
    }


def _regularisation(cfg: Mapping[str, Any]) -> dict[str, Any]:
    hidden = cfg.get("hidden_dropout", 0.1)
    embedding = cfg.get("embedding_dropout")
    return {
        "hidden_dropout": hidden,
        "attention_dropout": cfg.get("attention_dropout", 0.1),
        "embedding_dropout": hidden if embedding is None else embedding,
        "recompute": cfg.get("activations_checkpoint_granularity"),
        "recompute_layers": _recompute_layers(cfg),
    }


def _parallel(
    cfg: Mapping[str, Any], split: list[int] | None, precision: Any = None
) -> dict[str, Any]:
    stages = cfg.get("pipeline_model_parallel_size", 1)
    own = cfg.get("precision", 32) if precision is None else precision
    dtype = _DTYPES[precision_name(own)]
    return {
        "tensor_model_parallel_size": cfg.get("tensor_model_parallel_size", 1),
        "pipeline_model_parallel_size": stages,
        "sequence_parallel": cfg.get("sequence_parallel", False),
        "pipeline_model_parallel_layout": pipeline_layout(split) if split and stages > 1 else None,
        "pipeline_dtype": dtype if stages > 1 else None,
        "params_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
    }


def use_transformer_engine(wanted: bool | None) -> bool:
    """Whether to build Transformer Engine's layers: ``None`` means where it is present.

    Raises:
        ValueError: it is asked for and absent.
    """
    from megatron.core.transformer.transformer_block import HAVE_TE

    if wanted and not HAVE_TE:
        raise ValueError(
            "transformer_engine=true, but Transformer Engine cannot be imported: install the "
            "extra `te` on a CUDA machine or set model.transformer_engine=false."
        )
    return HAVE_TE if wanted is None else wanted


def _recompute_layers(cfg: Mapping[str, Any]) -> int | None:
    method = cfg.get("activations_checkpoint_method")
    if method not in (None, "uniform", "block"):
        raise ValueError(
            f"activations_checkpoint_method {method!r} is unknown: uniform (all layers) or block "
            "(the first activations_checkpoint_num_layers of each stage)."
        )
    return cfg.get("activations_checkpoint_num_layers") if method == "block" else None


def _fp8(cfg: Mapping[str, Any], tp: int) -> dict[str, Any]:
    """fp8 settings; without Transformer Engine Megatron-Core would ignore them in silence."""
    settings = fp8_settings(cfg)
    if not settings:
        return {}
    if not use_transformer_engine(cfg.get("transformer_engine")):
        raise ValueError(
            "fp8=true needs Transformer Engine, which cannot be imported or is switched off: "
            "install the extra `te` on a CUDA machine, or set model.fp8=false."
        )
    inner = cfg.get("bottleneck_size") or cfg["hidden_size"]
    widths = {
        "hidden_size": cfg["hidden_size"],
        "hidden_size or bottleneck_size, per rank,": inner // tp,
        "ffn_hidden_size, per rank,": (cfg.get("ffn_hidden_size") or 4 * inner) // tp,
    }
    for name, width in widths.items():
        if width % 16:
            raise ValueError(
                f"fp8=true: {name} is {width}, and fp8 products need multiples of 16: choose "
                "other sizes, or fp8=false."
            )
    return settings
