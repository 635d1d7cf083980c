"""Features -> a batch, in the fields of :class:`~glmkd_nemo.distill.method.Batch`.

Where examples have different numbers of answers, the missing ones are copies of the first, and
``choice_mask`` is 0 for them; it is left out where no example of the batch misses any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from glmkd_nemo.data.superglue.features import Feature
from glmkd_nemo.distill import task_batch
from glmkd_nemo.distill.task_batch import Fields

_ANSWERS = ("dec_text", "dec_position", "dec_mask", "dec_target", "dec_logit_mask")
_SEQUENCES = ("text", "position", "mask", "target", "logit_mask")


def collate(features: Sequence[Feature], form: str, choices: int | None = None) -> Fields:
    """Stacks examples of one form.

    Args:
        features: of ``build_feature``.
        form: of ``form_of``.
        choices: answers per example, where each brings its own (see :func:`with_choices`);
            ``None``: the most of these examples.

    Returns:
        What ``task_batch`` gives: ``input_ids [n, s]``, ``position_ids [n, 2, s]``,
        ``attention_mask [n]`` (sep; the fast form ``[n, l, l]``), ``labels`` and ``loss_mask
        [n, s]`` and ``task``; ``n`` is ``b``, or ``b * c`` where each answer is a sequence of its
        own. ``generative``: the fields of pre-training, without ``task``.
    """
    counts, choice_mask = [num_answers(feature) for feature in features], None
    if all(counts):
        n = choices or max(counts)
        features = [with_choices(feature, n) for feature in features]
        if min(counts) < n:
            choice_mask = (torch.arange(n) < torch.tensor(counts).unsqueeze(1)).long()
    text, position, mask = (_stack(features, name) for name in _SEQUENCES[:3])
    label = torch.tensor([feature.label for feature in features])
    if form == "pooled":
        return task_batch.pooled(text, position, mask, label, choice_mask)
    if features[0].dec_text is not None:
        ids, places, seen, target, logit_mask = (_stack(features, name) for name in _ANSWERS)
        context, answers = (text, position, mask), (ids, places, seen)
        return task_batch.packed_choices(context, answers, target, logit_mask, label, choice_mask)
    target, logit_mask = (_stack(features, name) for name in _SEQUENCES[3:])
    if form == "single_token":
        return task_batch.single_token(text, position, mask, target, label)
    if form == "multi_token":
        return task_batch.multi_token(text, position, mask, target, logit_mask, label, choice_mask)
    return {
        "input_ids": text,
        "position_ids": position,
        "attention_mask": mask,
        "labels": target,
        "loss_mask": logit_mask.float(),
    }


def num_answers(feature: Feature) -> int:
    """Answers that an example brings along; 0 where all examples have the same ones."""
    if feature.dec_text is not None:
        return len(feature.dec_text)
    return len(feature.text) if feature.text.ndim == 2 else 0


def with_choices(feature: Feature, n: int) -> Feature:
    """The example with `n` answers: padded with copies of the first, or cut.

    The right answer is never cut: where its place would go, it becomes the first, and the label 0.
    """
    count, label = num_answers(feature), feature.label
    rows = [i if i < count else 0 for i in range(n)]
    if n <= label:
        rows[0], label = min(label, count - 1), 0
    names = _ANSWERS if feature.dec_text is not None else _SEQUENCES
    arrays = {name: getattr(feature, name) for name in names}
    taken = {name: values[rows] for name, values in arrays.items() if values is not None}
    return dataclasses.replace(feature, label=label, **taken)


def _stack(features: Sequence[Feature], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(feature, name) for feature in features]))
