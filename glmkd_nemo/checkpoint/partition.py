"""How the original's model parallelism divides each weight, both ways.

Rows of column-parallel maps and of the vocabulary, columns of row-parallel ones, and of the fused
projection a part of queries, of keys and of values each. Everything else is on every rank whole.
(The reference's ``change_mp`` forgets the biases of ALBERT's and the bottleneck's column-parallel
maps and divides their columns; these are divided here as its model reads them.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

_THIRDS = re.compile(r".*\.query_key_value\.(weight|bias)")
_ROWS = re.compile(
    r"(.*\.)?word_embeddings\.weight|(.*\.)?(compress|decompress|ib)_emb_mlp\.(weight|bias)"
    r"|.*\.(dense_h_to_4h|ib_linear_in|ib_linear_out)\.(weight|bias)"
    r"|student\.(.*\.)?[st]_fit_dense(_\d+)?(\.\d+)?\.(weight|bias)"
    r"|student\.(.*\.)?multi_teacher_model\.fit_dense_\d+\.(weight|bias)"
)
_FIT = re.compile(
    r"student\.((?!multi_teacher_model).*\.)?fit_dense(_\d+)?\.(weight|bias)"
)  # TinyBERT's
_COLUMNS = re.compile(
    r".*\.(attention\.dense|dense_4h_to_h)\.weight|student\..*\.agent_mt_soft\.weight"
)


def kind_of(name: str, fit_parallel: bool = False) -> str:
    """``thirds``, ``rows``, ``columns`` or ``whole``, of an original name.

    Args:
        name: of a weight.
        fit_parallel: TinyBERT's ``fit_dense`` is column-parallel (the original's
            ``--tinybert_fit_parallel``).
    """
    if fit_parallel and _FIT.fullmatch(name):
        return "rows"
    for kind, pattern in (("thirds", _THIRDS), ("rows", _ROWS), ("columns", _COLUMNS)):
        if pattern.fullmatch(name):
            return kind
    return "whole"


def is_replicated(name: str) -> bool:
    """Whether all ranks are known to have a weight whole; of methods' own, it is not known."""
    return kind_of(name) == "whole" and not name.startswith("student.")


def whole_shape(
    name: str, part: Sequence[int], size: int, fit_parallel: bool = False
) -> tuple[int, ...]:
    """Shape of a weight of which one of ``size`` ranks has ``part``.

    Raises:
        ValueError: it has too few dimensions, by name.
    """
    kind, shape = kind_of(name, fit_parallel), list(part)
    if kind != "whole":
        shape[_dim(name, kind, part)] *= size
    return tuple(shape)


def _dim(name: str, kind: str, shape: Sequence[int]) -> int:
    """The dimension that is divided."""
    dim = 1 if kind == "columns" else 0
    if len(shape) <= dim:
        raise ValueError(f"{name} has the shape {tuple(shape)}, which no GLM's has.")
    return dim


def part_shape(
    name: str, whole: Sequence[int], size: int, fit_parallel: bool = False
) -> tuple[int, ...]:
    """Shape of one rank's part.

    Raises:
        ValueError: the weight cannot be divided so, by name.
    """
    kind, shape = kind_of(name, fit_parallel), list(whole)
    if kind == "whole":
        return tuple(shape)
    dim = _dim(name, kind, whole)
    if shape[dim] % (size * (3 if kind == "thirds" else 1)):
        raise ValueError(
            f"{name} {tuple(whole)} cannot be divided among {size} model-parallel ranks: choose "
            "another model_parallel_size."
        )
    shape[dim] //= size
    return tuple(shape)


def merge(name: str, parts: Sequence[Tensor], fit_parallel: bool = False) -> Tensor:
    """The whole weight of its parts, by rank; of a weight that all have whole, the first."""
    kind = kind_of(name, fit_parallel)
    if len(parts) == 1 or kind == "whole":
        return parts[0]
    if kind == "thirds":
        by_rank = [part.chunk(3) for part in parts]
        return torch.cat([chunks[i] for i in range(3) for chunks in by_rank])
    return torch.cat(list(parts), 1 if kind == "columns" else 0)


def split(name: str, whole: Tensor, size: int, fit_parallel: bool = False) -> list[Tensor]:
    """Parts of a weight by rank; the inverse of :func:`merge`.

    Raises:
        ValueError: the weight cannot be divided so, by name.
    """
    part_shape(name, whole.shape, size, fit_parallel)
    kind = kind_of(name, fit_parallel)
    if size == 1 or kind == "whole":
        return [whole] * size
    if kind == "thirds":
        thirds = [third.chunk(size) for third in whole.chunk(3)]
        return [torch.cat([third[rank] for third in thirds]) for rank in range(size)]
    return list(whole.chunk(size, 1 if kind == "columns" else 0))
