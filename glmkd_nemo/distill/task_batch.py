"""Batches of downstream tasks: collated tensors -> the fields of :class:`~.method.Batch`.

``b`` examples, ``c`` answer choices, ``s`` positions; ``sep`` is the length of the context that all
positions see. Each function returns what a data loader yields.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill.method import TaskBatch

Fields = dict[str, Any]


def single_token(
    input_ids: Tensor, position_ids: Tensor, sep: Tensor, verbalizers: Tensor, label: Tensor
) -> Fields:
    """Each answer is one token, to be predicted at position ``sep``.

    Args:
        input_ids: ``[b, s]``.
        position_ids: ``[b, 2, s]``.
        sep: ``[b]``.
        verbalizers: ``[b, c]``, the token of each answer.
        label: ``[b]``, the right one.

    Returns:
        Fields in which ``labels`` has the right token at the blank.
    """
    blank = torch.arange(input_ids.shape[1], device=sep.device) == sep.unsqueeze(1)
    right = verbalizers.gather(1, label.unsqueeze(1))
    task = TaskBatch(label=label, target_ids=verbalizers)
    return _fields(input_ids, position_ids, sep, right * blank, blank, task)


def multi_token(
    input_ids: Tensor,
    position_ids: Tensor,
    sep: Tensor,
    target_ids: Tensor,
    target_mask: Tensor,
    label: Tensor,
    choice_mask: Tensor | None = None,
) -> Fields:
    """Each answer stands behind a copy of the context: ``b * c`` sequences.

    Args:
        input_ids: ``[b, c, s]``.
        position_ids: ``[b, c, 2, s]``.
        sep: ``[b, c]``.
        target_ids: ``[b, c, s]``, the token to be predicted at each position.
        target_mask: ``[b, c, s]``, 1 at the positions of the answer.
        label: ``[b]``.
        choice_mask: ``[b, c]``, 0 for choices that only pad.
    """
    target_ids, target_mask = target_ids.flatten(0, 1), target_mask.flatten(0, 1)
    task = TaskBatch(label, target_ids, target_mask, choice_mask)
    text, position = input_ids.flatten(0, 1), position_ids.flatten(0, 1)
    return _fields(text, position, sep.flatten(), target_ids, target_mask, task)


def pooled(
    input_ids: Tensor,
    position_ids: Tensor,
    sep: Tensor,
    label: Tensor,
    choice_mask: Tensor | None = None,
) -> Fields:
    """Sequences to be classified, or (with an axis ``c``) choices among which to choose.

    Args:
        input_ids: ``[b, s]`` or ``[b, c, s]``.
        position_ids: ``[b, 2, s]`` or ``[b, c, 2, s]``.
        sep: ``[b]`` or ``[b, c]``.
        label: ``[b]``.
        choice_mask: ``[b, c]``, 0 for choices that only pad.
    """
    if input_ids.dim() == 3:
        input_ids, position_ids = input_ids.flatten(0, 1), position_ids.flatten(0, 1)
    none = torch.zeros_like(input_ids)
    task = TaskBatch(label, choice_mask=choice_mask)
    return _fields(input_ids, position_ids, sep.flatten(), none, none, task)


def packed_choices(
    context: tuple[Tensor, Tensor, Tensor],
    choices: tuple[Tensor, Tensor, Tensor],
    target_ids: Tensor,
    target_mask: Tensor,
    label: Tensor,
    choice_mask: Tensor | None = None,
) -> Fields:
    """All answers behind *one* copy of the context: ``b`` sequences of ``s + c * d`` positions.

    The fast form of the multi-token cloze: GLM encodes the context once and decodes each answer
    over the keys and values kept of it. Here one pass does both: an attention mask lets each
    answer see the context and itself, which gives the same numbers in every parallel layout.

    Args:
        context: input ids ``[b, s]``, position ids ``[b, 2, s]`` and sep ``[b]``.
        choices: input ids ``[b, c, d]``, position ids ``[b, c, 2, d]``, and ``[b, c]``: how much
            of the context an answer sees.
        target_ids: ``[b, c, d]``, the token to be predicted at each position.
        target_mask: ``[b, c, d]``, 1 at the positions of the answer.
        label: ``[b]``.
        choice_mask: ``[b, c]``, 0 for choices that only pad.

    Returns:
        Fields whose ``attention_mask`` is ``[b, l, l]`` booleans, ``l = s + c * d``.
    """
    text, position, sep = context
    choice_text, choice_position, seen = choices
    c, d = choice_text.shape[1:]
    none = torch.zeros_like(text)
    targets = torch.cat([none, target_ids.flatten(1)], 1)
    target_mask = torch.cat([none, target_mask.flatten(1).to(none.dtype)], 1)
    number = torch.arange(c, device=text.device).repeat_interleave(d).expand(len(text), -1)
    mask = _one_context(text.shape[1], sep, seen, number)
    task = TaskBatch(label, targets, target_mask, choice_mask, torch.cat([none, number], 1), c)
    return _fields(
        torch.cat([text, choice_text.flatten(1)], 1),
        torch.cat([position, choice_position.transpose(1, 2).flatten(2)], 2),
        mask,
        targets,
        target_mask,
        task,
    )


def _one_context(context: int, sep: Tensor, seen: Tensor, number: Tensor) -> Tensor:
    """``[b, l, l]``: who sees whom, of a context and the answers ``number [b, c * d]`` after it."""
    b = len(sep)
    answer = torch.cat([number.new_full((b, context), -1), number], 1)
    limit = torch.cat([sep.unsqueeze(1).expand(b, context), seen.gather(1, number)], 1)
    place = torch.arange(answer.shape[1], device=sep.device)
    own = (answer.unsqueeze(2) == answer.unsqueeze(1)) & (place.unsqueeze(1) >= place)
    return own | (place < limit.unsqueeze(2))


def _fields(
    input_ids: Tensor,
    position_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    loss_mask: Tensor,
    task: TaskBatch,
) -> Fields:
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "loss_mask": loss_mask.float(),
        "task": task,
    }
