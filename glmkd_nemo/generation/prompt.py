"""A text with blanks, as GLM reads it: the context, then the blanks filled so far.

GLM (arXiv 2103.10360, section 2.1): a blank is filled after ``<|startofpiece|>``; its tokens have
the position of the mask that they fill (first row of the position ids) and count 1, 2, ... inside
the blank (second row); all see the context, and each sees the blanks and tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Prompt:
    """A context and what fills its blanks, left to right.

    Attributes:
        ids: the context, masks included.
        blanks: where the masks are.
        start_id: of the token that begins a filling.
        spans: fillings so far, without start and end tokens.
        score: sum of the scores of the fillings.
    """

    ids: list[int]
    blanks: list[int]
    start_id: int
    spans: list[list[int]] = field(default_factory=list)
    score: float = 0.0

    @property
    def place(self) -> int:
        """Position of the blank that is to be filled next."""
        return self.blanks[len(self.spans)]

    def prefix(self) -> tuple[list[int], list[int], list[int]]:
        """What is known before the next blank is filled: ids, positions, block positions."""
        ids, positions, block = list(self.ids), list(range(len(self.ids))), [0] * len(self.ids)
        for place, span in zip(self.blanks, self.spans, strict=False):
            ids += [self.start_id, *span]
            positions += [place] * (len(span) + 1)
            block += range(1, len(span) + 2)
        return ids, positions, block

    def filled(self) -> list[int]:
        """The context with the fillings in the places of their masks."""
        whole: list[int] = []
        last = 0
        for place, span in zip(self.blanks, self.spans, strict=False):
            whole += [*self.ids[last:place], *span]
            last = place + 1
        return whole + self.ids[last:]


def mask_ids(tokenizer: Any) -> list[int]:
    """Ids of [MASK], and of [gMASK] and [sMASK] where the tokenizer has them."""
    known = (tokenizer.mask_id, tokenizer.gmask_id, tokenizer.smask_id)
    return [i for i in known if i is not None]


def read_prompt(prompt: str | Sequence[int], tokenizer: Any, longest: int, name: str) -> Prompt:
    """The context of a prompt.

    Args:
        prompt: text, which gets start and end tokens as the original's generate_samples gives
            them, and a [gMASK] (or [MASK]) at its end if it has no mask; or ids, taken as they
            are.
        tokenizer: vocabulary and command tokens.
        longest: most tokens that the model has positions for.
        name: of the prompt, for messages.

    Raises:
        ValueError: an empty or too long prompt, or ids without a mask, by name.
    """
    masks = mask_ids(tokenizer)
    if isinstance(prompt, str):
        ids = _encode(prompt, tokenizer, masks)
        if len(ids) < 2:
            raise ValueError(f"{name} is empty: write a text, with [MASK] for a blank.")
    else:
        ids = [int(i) for i in prompt]
    blanks = [i for i, token in enumerate(ids) if token in masks]
    if not blanks:
        raise ValueError(f"{name}: none of its {len(ids)} ids is a mask ({masks}).")
    if len(ids) > longest:
        raise ValueError(
            f"{name} has {len(ids)} tokens, but the model has positions for {longest} "
            "(max_position_embeddings): shorten it."
        )
    return Prompt(ids, blanks, tokenizer.sop_id)


def _encode(text: str, tokenizer: Any, masks: list[int]) -> list[int]:
    ids: list[int] = tokenizer.encode(text)
    if not ids:
        return []
    if not any(token in masks for token in ids):
        ids = [*ids, tokenizer.mask_id if tokenizer.gmask_id is None else tokenizer.gmask_id]
    end = [] if ids[-1] == tokenizer.gmask_id else [tokenizer.eos_id]
    return [tokenizer.cls_id, *ids, *end]


@dataclass
class Prefixes:
    """Prefixes of a batch, padded on the right.

    Attributes:
        ids: ``[b, p]``.
        positions: ``[b, 2, p]``.
        sep: ``[b]``, lengths of the contexts.
        lengths: ``[b]``, of the prefixes without padding.
        places: ``[b]``, position of the blank to be filled.
    """

    ids: Tensor
    positions: Tensor
    sep: Tensor
    lengths: Tensor
    places: Tensor

    def repeated(self, times: int) -> Prefixes:
        """Every row ``times`` times, one after the other."""
        rows = (self.ids, self.positions, self.sep, self.lengths, self.places)
        return Prefixes(*(x.repeat_interleave(times, 0) for x in rows))


def batch_prefixes(prompts: Sequence[Prompt], pad_id: int, device: Any) -> Prefixes:
    """The prefixes of prompts that have a blank left."""
    rows = [prompt.prefix() for prompt in prompts]
    lengths = [len(ids) for ids, _, _ in rows]
    width = max(lengths)

    def padded(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (width - len(values))

    return Prefixes(
        torch.tensor([padded(ids, pad_id) for ids, _, _ in rows], device=device),
        torch.tensor([[padded(p, 0), padded(b, 0)] for _, p, b in rows], device=device),
        torch.tensor([len(prompt.ids) for prompt in prompts], device=device),
        torch.tensor(lengths, device=device),
        torch.tensor([prompt.place for prompt in prompts], device=device),
    )
