"""Items of token tasks: a context with blanks, then what stands in them, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glmkd_nemo.data.block_infilling import pad
from glmkd_nemo.data.tokenizer import GLMTokenizer

Item = dict[str, Any]
MULTIPLE = 8  # lengths of items: sequence parallelism divides them


@dataclass(frozen=True)
class Answer:
    """What stands in one blank.

    Attributes:
        place: index of its mask in the context.
        labels: [n] ids to be predicted, the end token among them where one is learnt.
        loss: [n] 1 where a label counts, else 0; None: all count.
    """

    place: int
    labels: Sequence[int]
    loss: Sequence[int] | None = None


def lay_out(
    context: Sequence[int],
    answers: Sequence[Answer],
    tokenizer: GLMTokenizer,
    length: int,
    block_positions: bool = True,
) -> Item:
    """One item: the context, seen from everywhere, then each answer after its start token.

    An answer's tokens have the position of its mask, and count 1..n as their second position
    (GLM, arXiv:2103.10360, section 2.1). Labels are 0 outside the answers, as the reference's tasks
    have it; in pre-training they repeat the context there.

    Args:
        context: [c] ids with a mask at each answer's place.
        answers: in the order in which they are predicted; [n] labels each.
        tokenizer: gives the start token and the padding.
        length: s; what does not fit is cut off at the end.
        block_positions: count inside an answer (else 1 throughout).

    Returns:
        The fields of pre-training: input_ids, labels [s] int64, loss_mask [s] float32,
        position_ids [2, s] int64, attention_mask [] int64 (c).
    """
    inputs, labels, loss_mask = list(context), [0] * len(context), [0] * len(context)
    place, inside = list(range(len(context))), [0] * len(context)
    for answer in answers:
        size = len(answer.labels)
        inputs += [tokenizer.sop_id, *answer.labels[:-1]]
        labels += answer.labels
        loss_mask += [1] * size if answer.loss is None else answer.loss
        place += [answer.place] * size
        inside += range(1, size + 1) if block_positions else [1] * size
    sample = {
        "input_ids": inputs[:length],
        "labels": labels[:length],
        "loss_mask": loss_mask[:length],
        "position_ids": np.array([place[:length], inside[:length]], dtype=np.int64),
        "attention_mask": len(context),
    }
    return pad(sample, length, tokenizer.pad_id)


def rounded(length: int) -> int:
    """The next multiple of `MULTIPLE`: padding is never counted, odd lengths cannot be divided."""
    return -(-length // MULTIPLE) * MULTIPLE
