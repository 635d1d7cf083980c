"""GLMD's vocabulary compression (arXiv 2306.06625, section 3): few tokens stand for all.

A model keeps the rows of some tokens only, and every other token is replaced by a kept one: the
unknown token, or the nearest by a teacher's word embeddings. Texts, labels and teachers go on with
the ids of the whole vocabulary; only the student's embedding and head are small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from glmkd_nemo.distill.pipeline import replicated_tensors

REPLACEMENTS = ("unk", "decoder", "cosine", "euclidean")
UNFILLED = -1
_CHUNK = 1024  # removed tokens compared at a time: 1024 x 30000 fp32 similarities are 120 MB

# (removed ids [m], kept ids [n]) -> [m], which of the kept stands for each
Replace = Callable[[Tensor, Tensor], Tensor]


class Tables(NamedTuple):
    """A map, as int64: ``kept_ids [n]`` the token of each row, ``row_of_id [V]`` the row of each
    token (of its replacement, for one that is not kept)."""

    kept_ids: Tensor
    row_of_id: Tensor


def kept_size(size: float, vocab_size: int, multiple: int) -> int:
    """How many tokens ``size`` keeps: a number, or below 1 a share of the vocabulary.

    A share is rounded up to ``multiple``, as the rows up to there exist anyway.

    Raises:
        ValueError: none at all, or more than there are.
    """
    if 0 < size < 1:
        return min(-(-int(size * vocab_size) // multiple) * multiple, vocab_size)
    if size != int(size) or not 1 <= size <= vocab_size:
        raise ValueError(
            f"model.vocab_map.size={size}: give a number of tokens from 1 to {vocab_size} (the "
            "whole vocabulary), or a share between 0 and 1."
        )
    return int(size)


def build_tables(order: Sequence[int], size: int, vocab_size: int, replace: Replace) -> Tables:
    """A map that keeps the first ``size`` tokens of ``order``.

    Args:
        order: ids, the ones to keep first; ids above those that it has follow in their own order
            (rows that pad an original checkpoint).
        size: how many are kept.
        vocab_size: V.
        replace: finds the stand-ins.

    Raises:
        ValueError: ``order`` has an id twice, or one that the vocabulary does not have.
    """
    if sorted(order) != list(range(len(order))) or len(order) > vocab_size:
        raise ValueError(
            f"the order of {len(order)} tokens is not one of 0..{len(order) - 1} within a "
            f"vocabulary of {vocab_size}: make it anew with scripts/sort_vocab.py."
        )
    ids = torch.tensor([*order, *range(len(order), vocab_size)], dtype=torch.int64)
    kept, removed = ids[:size], ids[size:]
    row_of_id = torch.empty(vocab_size, dtype=torch.int64)
    row_of_id[kept] = torch.arange(size)
    row_of_id[removed] = replace(removed, kept).to(row_of_id.device)
    return Tables(kept, row_of_id)


def by_token(token_id: int) -> Replace:
    """One kept token stands for all that are removed.

    Raises:
        ValueError: (when used) that token is not kept itself.
    """

    def replace(removed: Tensor, kept: Tensor) -> Tensor:
        found = (kept == token_id).nonzero()
        if not len(found):
            raise ValueError(
                f"token {token_id} is to stand for others, but is not kept: put it first in "
                "model.vocab_map.table (scripts/sort_vocab.py puts command tokens there)."
            )
        return found[0].expand(len(removed))

    return replace


def by_similarity(vectors: Tensor, how: str) -> Replace:
    """The kept token with the most similar word embedding stands for a removed one.

    Args:
        vectors: ``[V, h]``, a teacher's.
        how: ``decoder`` (product, as a head computes it), ``cosine`` or ``euclidean``.
    """

    def replace(removed: Tensor, kept: Tensor) -> Tensor:
        mine = vectors[kept.to(vectors.device)]
        norm = mine.square().sum(-1)
        found = []
        for ids in removed.to(vectors.device).split(_CHUNK):
            other = vectors[ids]
            product, size = other @ mine.T, other.square().sum(-1, keepdim=True)
            if how == "cosine":
                product = product / (size * norm).sqrt()
            elif how == "euclidean":
                product = 2 * product - size - norm
            found.append(product.argmax(-1))
        return torch.cat(found) if found else removed

    return replace


def from_original(paras: dict[str, Tensor]) -> Tables:
    """The tables of an original checkpoint (its ``glm.map_vocab_paras``, saved beside weights).

    Its ``target_pos_to_origin_id`` has the kept tokens first; how many is in ``origin_id_mask_map``
    (True for kept ones).
    """
    size = int(paras["origin_id_mask_map"].sum())
    kept = paras["target_pos_to_origin_id"][:size]
    return Tables(kept.long(), paras["origin_id_to_target_pos"].long())


class VocabMap(nn.Module):
    """The tables of a model, as buffers: they are saved, loaded and moved with its weights.

    Args:
        size: n, kept tokens.
        vocab_size: V, all tokens.
    """

    kept_ids: Tensor
    row_of_id: Tensor

    def __init__(self, size: int, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("kept_ids", torch.full((size,), UNFILLED, dtype=torch.int64))
        self.register_buffer("row_of_id", torch.full((vocab_size,), UNFILLED, dtype=torch.int64))
        self._is_known_to_be_filled = False

    @torch.no_grad()
    def fill(self, tables: Tables) -> None:
        """Takes over a map of the same sizes."""
        self.kept_ids.copy_(tables.kept_ids)
        self.row_of_id.copy_(tables.row_of_id)

    def rows(self, ids: Tensor) -> Tensor:
        """Row of the small embedding (and column of an unmapped head) of each id, any shape.

        Raises:
            ValueError: the map was neither built nor loaded.
        """
        self._check()
        return self.row_of_id[ids]

    def replaced(self, ids: Tensor) -> Tensor:
        """Ids with every one that is not kept replaced by the one that stands for it."""
        return self.kept_ids[self.rows(ids)]

    def _check(self) -> None:
        if self._is_known_to_be_filled:  # asked once: on a GPU each answer waits for it
            return
        if bool((self.row_of_id < 0).any()):
            raise ValueError(
                "the vocabulary map is empty: set model.vocab_map.table to a file written by "
                "scripts/sort_vocab.py (and model.vocab_map.teacher, if replace is not unk), or "
                "restore a model that has its map."
            )
        self._is_known_to_be_filled = True

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Both tables; the first and the last pipeline stage have them, and one rank writes."""
        return replicated_tensors(dict(self.named_buffers()), prefix)
