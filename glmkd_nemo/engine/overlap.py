"""Reduction of gradients over data-parallel ranks, while the backward pass still runs or after it.

It is Megatron-Core's DDP that overlaps; here its switches are checked, and a gradient that never
comes, for which it would wait, is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("overlap_grad_reduce", "bucket_size", "average_in_collective")


def ddp_settings(section: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """Fields of mcore's ``DistributedDataParallelConfig`` from the section ``engine``.

    Args:
        section: with any of :data:`KEYS`.
        replicas: data-parallel ranks.

    Raises:
        ValueError: a switch that would have no effect.
    """
    given = {key: section.get(key) for key in KEYS if section.get(key)}
    if given and replicas == 1:
        key = next(iter(given))
        raise ValueError(
            f"engine.{key}={given[key]} is about data-parallel ranks, and there is one: leave it "
            "out, or start more processes than tensor and pipeline parallelism take."
        )
    size = given.get("bucket_size")
    if size is not None and not given.get("overlap_grad_reduce"):
        raise ValueError(
            f"engine.bucket_size={size} has no effect without engine.overlap_grad_reduce=true: "
            "gradients are reduced in one piece after the backward pass."
        )
    if size is not None and int(size) < 1:
        raise ValueError(f"engine.bucket_size={size}: give a number of parameters, or null.")
    return given


def check_stages(module: Any) -> None:
    """Refuses to reduce early what the pipeline stages first add up.

    Args:
        module: the ModelPT, built; its pipeline has several stages.

    Raises:
        ValueError: stages have copies of the same weights.
    """
    step = getattr(module, "step", None)
    projections = step is not None and any(True for _ in step.objective.parameters())
    if projections or module.glm.config.share_layers:
        raise ValueError(
            "engine.overlap_grad_reduce=true would reduce gradients over data-parallel ranks "
            "before those of all pipeline stages are added up, which share_layers and methods "
            "with projections need: set it to false, or pipeline_model_parallel_size=1."
        )


def check_complete(chunks: list[Any]) -> None:
    """Names the weights whose gradients DDP would wait for; before it ends a step's reduction.

    Raises:
        ValueError: there are some.
    """
    for chunk in chunks:
        if not chunk.ddp_config.overlap_grad_reduce:
            continue
        names = {parameter: name for name, parameter in chunk.module.named_parameters()}
        for group in chunk.bucket_groups:
            missing = group.params - group.per_param_grad_ready_counts.keys()
            if missing:
                first = sorted(names[parameter] for parameter in missing)[0]
                raise ValueError(
                    f"{len(missing)} weights got no gradient in this step, {first} among them, and "
                    "engine.overlap_grad_reduce=true needs one of every weight in every step: set "
                    "it to false."
                )
