"""What a recorded case says about a downstream task: its head, and its batch in our form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill import task_batch
from glmkd_nemo.models.heads import HeadConfig
from glmkd_nemo.replay import flags as options

HEADS = "heads"  # the collection of heads without distillation
_PLAIN = ("input_ids", "position_ids", "attention_mask", "labels", "loss_mask")
_PARAMETERS = {"pool_layer": "pooler", "multichoice_head": "classifier"}
_KIND_OF_CLASS = {
    "GLMForMultiTokenCloze": "multi_token",
    "GLMForMultiTokenClozeFast": "multi_token",
    "GLMForSingleTokenCloze": "single_token",
    "GLMForSequenceClassification": "pooled",
}
_KIND_OF_STAGE = {"ft_multi": "multi_token", "ft_single": "single_token"}


def head_of(record: Mapping[str, Any]) -> HeadConfig | None:
    """The head that a case's models have, if any."""
    if "head_class" not in record:
        kind = _KIND_OF_STAGE.get(record.get("stage", ""))
        return None if kind is None else HeadConfig(kind)
    kind = _KIND_OF_CLASS[record["head_class"]]
    argv = options.parse(record["argv"])
    if kind == "multi_token":
        return HeadConfig(kind, length_penalty=float(argv.get("length-penalty", 0.0)))
    if kind == "single_token":
        return HeadConfig(kind, log_softmax="adapet" in argv)
    classes = record["get_model_kwargs"]["num_labels"]
    return HeadConfig(kind, pool=str(argv["pool-token"]), num_classes=classes, dropout=0.0)


def fields_of(
    inputs: Mapping[str, Tensor], head: HeadConfig | None, dtype: torch.dtype
) -> dict[str, Any]:
    """The fields of :class:`~glmkd_nemo.distill.method.Batch`.

    Args:
        inputs: the recorded batch, the reference's names.
        head: of the models.
        dtype: of ``loss_mask``.
    """
    fields: dict[str, Any] = _fields(inputs, head)
    return {**fields, "loss_mask": fields["loss_mask"].to(dtype)}


def _fields(x: Mapping[str, Tensor], head: HeadConfig | None) -> dict[str, Any]:
    if head is None:
        return {name: x[name] for name in _PLAIN}
    sequences, label = (x["text"], x["position"], x["mask"]), x["label"]
    choice_mask = x.get("loss_mask")
    if head.kind == "pooled":
        return task_batch.pooled(*sequences, label, choice_mask)
    if head.kind == "single_token":
        return task_batch.single_token(*sequences, x["target"], label)
    if "dec_text" in x:
        choices = x["dec_text"], x["dec_position"], x["dec_mask"]
        targets = x["dec_target"], x["dec_logit_mask"]
        return task_batch.packed_choices(sequences, choices, *targets, label, choice_mask)
    return task_batch.multi_token(*sequences, x["target"], x["logit_mask"], label, choice_mask)


def classes_of(inputs: Mapping[str, Tensor], head: HeadConfig | None) -> int:
    """Answers of an example of a recorded batch; 0 without a task."""
    if head is None or head.kind == "pooled":
        return 0
    shape = inputs["target"].shape
    return int(shape[1])


def head_parameters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A head's recorded parameters under our names."""
    prefix = "head_param/"
    found = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    names = {n: n.rpartition(".") for n in found}
    return {f"head.{_PARAMETERS[layer]}.{p}": found[n] for n, (layer, _, p) in names.items()}


def original_head_name(ours: str) -> str | None:
    """The reference's name of a head's parameter; ``None`` for any other parameter."""
    for original, layer in _PARAMETERS.items():
        prefix = f"head.{layer}."
        if ours.startswith(prefix):
            return f"{original}.{ours.removeprefix(prefix)}"
    return None
