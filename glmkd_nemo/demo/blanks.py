"""Filling a blank with a GLM: the context with one [MASK], then the span, left to right.

GLM (arXiv 2103.10360, section 2.1): the span is generated after ``sop``; each of its tokens has the
position of the [MASK] it fills (first row of the position ids) and counts 1, 2, ... inside the span
(second row); the context is seen by all, the span causally; the span ends with ``eop``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MASK_TEXT = "[MASK]"
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]


class BlankTokenizer(Protocol):
    """What filling needs of a tokenizer; :class:`glmkd_nemo.data.tokenizer.GLMTokenizer` has it."""

    vocab_size: int
    cls_id: int
    eos_id: int
    mask_id: int
    sop_id: int
    eop_id: int

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`."""
        ...

    def is_word_start(self, token_id: int) -> bool:
        """Whether a token begins a word."""
        ...


@dataclass(frozen=True)
class Prompt:
    """A context ready for generation: ids (with [MASK]), and where the [MASK] is."""

    ids: list[int]
    mask_position: int


def encode_blank(text: str, tokenizer: BlankTokenizer) -> Prompt:
    """Context ids of `text`, which holds the word ``[MASK]`` once.

    Raises:
        ValueError: no ``[MASK]``, or more than one.
    """
    parts = text.split(MASK_TEXT)
    if len(parts) != 2:
        raise ValueError(f"write {MASK_TEXT} exactly once in the sentence, found in: {text!r}")
    left = [tokenizer.cls_id, *tokenizer.encode(parts[0])]
    right = [*tokenizer.encode(parts[1]), tokenizer.eos_id]
    return Prompt([*left, tokenizer.mask_id, *right], len(left))


def batch_of(prompt: Prompt, span: list[int], sop_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Model input for a context and the span so far: ids [1,s], positions [1,2,s], sep [1]."""
    ids = [*prompt.ids, sop_id, *span]
    context, generated = len(prompt.ids), len(span) + 1
    position = [*range(context), *[prompt.mask_position] * generated]
    block = [*[0] * context, *range(1, generated + 1)]
    return torch.tensor([ids]), torch.tensor([[position, block]]), torch.tensor([context])


@torch.no_grad()
def fill_blank(
    forward: Forward,
    tokenizer: BlankTokenizer,
    text: str,
    max_tokens: int = 8,
    forbidden: frozenset[int] = frozenset(),
) -> str:
    """The most likely span for the ``[MASK]`` of `text`, chosen token by token (greedy).

    Args:
        forward: (ids [1,s], positions [1,2,s], sep [1]) -> logits [1,s,V'], V' >= vocabulary.
        tokenizer: vocabulary and command tokens.
        text: a sentence with one ``[MASK]``.
        max_tokens: longest span, in tokens.
        forbidden: ids that may not be chosen (command tokens); ``eop`` ends the span. The first
            token begins a word, so there is an answer, and it can be read.

    Raises:
        ValueError: `text` does not hold ``[MASK]`` exactly once.
    """
    prompt = encode_blank(text, tokenizer)
    banned = sorted(forbidden - {tokenizer.eop_id})
    inside = [i for i in range(tokenizer.vocab_size) if not tokenizer.is_word_start(i)]
    span: list[int] = []
    while len(span) < max_tokens:
        logits = forward(*batch_of(prompt, span, tokenizer.sop_id))
        scores = logits[0, -1, : tokenizer.vocab_size].float().clone()
        scores[banned] = -torch.inf
        if not span:
            scores[[tokenizer.eop_id, *inside]] = -torch.inf
        token = int(scores.argmax())
        if token == tokenizer.eop_id:
            break
        span.append(token)
    return tokenizer.decode(span).strip()
