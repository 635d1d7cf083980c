"""Impossible parallel layouts are refused before anything is built, with the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_layout(model: Mapping[str, Any], world_size: int, training: bool = True) -> None:
    """Checks sizes, batch and layout of ``cfg.model`` against the number of processes.

    Args:
        model: the section ``model`` of the configuration (NeMo's key names).
        world_size: processes in total (``trainer.devices * trainer.num_nodes``).
        training: whether the batch must fit too.

    Raises:
        ValueError: one message for all that does not fit.
    """
    tp = int(model.get("tensor_model_parallel_size", 1))
    pp = int(model.get("pipeline_model_parallel_size", 1))
    problems = [*_world(world_size, tp, pp), *_tensor(model, tp), *_pipeline(model, pp)]
    if training and not problems:
        problems += _batch(model, world_size // (tp * pp))
    if problems:
        raise ValueError("\n".join(problems))


def _world(world: int, tp: int, pp: int) -> list[str]:
    if min(tp, pp) < 1:
        return [
            f"model.tensor_model_parallel_size={tp} and model.pipeline_model_parallel_size={pp} "
            "must be at least 1."
        ]
    if world % (tp * pp):
        return [
            f"{world} processes (trainer.devices * trainer.num_nodes) cannot hold "
            f"model.tensor_model_parallel_size={tp} x model.pipeline_model_parallel_size={pp}: "
            f"start a multiple of {tp * pp} processes, e.g. trainer.devices={tp * pp}."
        ]
    return []


def _tensor(model: Mapping[str, Any], tp: int) -> list[str]:
    if tp < 1:
        return []
    hidden = model.get("hidden_size")
    ffn = model.get("ffn_hidden_size") or (4 * hidden if hidden else None)
    sizes = {
        "num_attention_heads": model.get("num_attention_heads"),
        "hidden_size": hidden,
        "ffn_hidden_size": ffn,
    }
    problems = [
        f"model.{name}={size} is not divisible by model.tensor_model_parallel_size={tp}: "
        f"choose a parallel size among {_divisors(size)}."
        for name, size in sizes.items()
        if size and size % tp
    ]
    heads = sizes["num_attention_heads"]
    if hidden and heads and hidden % heads:
        problems.append(f"model.hidden_size={hidden} is not divisible by {heads} attention heads.")
    if model.get("sequence_parallel"):
        length = model.get("encoder_seq_length")
        if tp == 1:
            problems.append(
                "model.sequence_parallel=true needs model.tensor_model_parallel_size > 1: "
                "raise it or set sequence_parallel=false."
            )
        elif length and length % tp:
            problems.append(
                f"model.encoder_seq_length={length} is not divisible by "
                f"model.tensor_model_parallel_size={tp}, which sequence_parallel=true needs."
            )
    return problems


def _pipeline(model: Mapping[str, Any], pp: int) -> list[str]:
    layers, vpp = model.get("num_layers"), model.get("virtual_pipeline_model_parallel_size")
    problems = []
    if layers and layers < pp:
        problems.append(
            f"model.num_layers={layers} is fewer than model.pipeline_model_parallel_size={pp}: "
            f"lower it to {layers} or less."
        )
    if vpp and vpp > 1:
        problems.append(
            f"model.virtual_pipeline_model_parallel_size={vpp}: this version runs one chunk of "
            "layers per pipeline stage; set it to null."
        )
    return problems


def _batch(model: Mapping[str, Any], dp: int) -> list[str]:
    micro, total = model.get("micro_batch_size"), model.get("global_batch_size")
    if micro and total and total % (micro * dp):
        return [
            f"model.global_batch_size={total} is not divisible by model.micro_batch_size={micro} x "
            f"{dp} data-parallel ranks: set it to a multiple of {micro * dp}."
        ]
    return []


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, min(number, 64) + 1) if number % n == 0]
