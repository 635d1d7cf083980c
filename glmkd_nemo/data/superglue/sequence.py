"""Token ids -> one GLM sequence: ``[CLS] context [EOS]``, then the answer after a start token.

Positions are two-dimensional (GLM, arXiv 2103.10360, section 2.2): the first row counts the
context's tokens and stays at the blank for the answer's; the second is 0 in the context and counts
the answer's tokens from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glmkd_nemo.data.tokenizer import GLMTokenizer

Ids = npt.NDArray[np.int64]
Parts = list[tuple[list[int], bool]]  # ids of a part, and whether it may be shortened
DECODER_LENGTH = 16  # positions of an answer in the fast form; longer ones are cut, as in GLM


@dataclass(frozen=True)
class GLMSequence:
    """Arrays of one sequence of ``s`` positions.

    Attributes:
        ids: ``[s]``.
        positions: ``[2, s]``.
        sep: tokens of the context, its end token included.
        targets: ``[s]``, the token to be predicted at each position.
        target_mask: ``[s]``, 1 where one is.
    """

    ids: Ids
    positions: Ids
    sep: int
    targets: Ids
    target_mask: Ids


def shorten(segments: Sequence[Parts], excess: int) -> list[int]:
    """Ids of the segments, `excess` tokens fewer.

    Tokens are taken one by one from the end of the last shortenable part that has any left, of
    whichever segment has more of them; of the second one if they have as many. When none is left
    (where the reference stops with an error), the longest part gives way, down to one token.

    Raises:
        ValueError: nothing is left to be taken.
    """
    lengths = [[len(ids) for ids, _ in parts] for parts in segments]
    for _ in range(excess):
        left = [
            [n if short else 0 for n, (_, short) in zip(own, parts, strict=True)]
            for own, parts in zip(lengths, segments, strict=True)
        ]
        sums = [sum(own) for own in left]
        side = len(sums) - 1 - sums[::-1].index(max(sums))
        if sums[side]:
            part = max(i for i, n in enumerate(left[side]) if n)
        else:
            longest, side, part = max(
                (n, i, j) for i, own in enumerate(lengths) for j, n in enumerate(own)
            )
            if longest < 2:
                raise ValueError("it does not fit however short its texts are: raise seq_length")
        lengths[side][part] -= 1
    return [
        token
        for parts, own in zip(segments, lengths, strict=True)
        for (ids, _), n in zip(parts, own, strict=True)
        for token in ids[:n]
    ]


def glm_sequence(
    tokens: Sequence[int],
    length: int,
    tokenizer: GLMTokenizer,
    answer: Sequence[int] | None = None,
    blank: bool = False,
    block_position_encoding: bool = True,
) -> GLMSequence:
    """A padded sequence.

    Args:
        tokens: the context without its command tokens; cut at the end if it is too long.
        length: ``s``.
        tokenizer: of the ids.
        answer: what stands behind the context, its end token included.
        blank: without an `answer`: add the start token, at which one token is predicted.
        block_position_encoding: count the answer's tokens (else all are 1).

    Raises:
        ValueError: an answer without a blank in the context.
    """
    ids = [tokenizer.cls_id, *tokens[: length - 2], tokenizer.eos_id]
    sep = len(ids)
    positions, blocks = list(range(sep)), [0] * sep
    targets, mask = [0] * sep, [0] * sep
    if answer is not None or blank:
        own = [tokenizer.sop_id, *(answer[:-1] if answer else [])]
        n = len(own)
        positions += [_blank(ids, tokenizer)] * n
        blocks += list(range(1, n + 1)) if block_position_encoding else [1] * n
        targets += list(answer or [0])
        mask += [1] * n
        ids += own
    return GLMSequence(
        _padded(ids, length, tokenizer.eos_id),
        np.stack([_padded(positions, length), _padded(blocks, length)]),
        sep,
        _padded(targets, length),
        _padded(mask, length),
    )


def decoder_sequence(
    context: GLMSequence, answer: Sequence[int], tokenizer: GLMTokenizer
) -> GLMSequence:
    """An answer of its own, ``DECODER_LENGTH`` positions, to be read behind a kept context."""
    answer = list(answer[:DECODER_LENGTH])
    n, place = len(answer), _blank(context.ids.tolist(), tokenizer)
    return GLMSequence(
        _padded([tokenizer.sop_id, *answer[:-1]], DECODER_LENGTH, tokenizer.eos_id),
        np.stack([_padded([place] * n, DECODER_LENGTH), _padded(range(1, n + 1), DECODER_LENGTH)]),
        context.sep,
        _padded(answer, DECODER_LENGTH),
        _padded([1] * n, DECODER_LENGTH),
    )


def _blank(ids: list[int], tokenizer: GLMTokenizer) -> int:
    if tokenizer.mask_id not in ids:
        raise ValueError("the blank was cut off: raise seq_length")
    return ids.index(tokenizer.mask_id)


def _padded(values: Sequence[int], length: int, pad: int = 0) -> Ids:
    return np.array([*values, *[pad] * (length - len(values))], dtype=np.int64)
