"""A finite set of examples as an endless stream, newly shuffled in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset


class Epochs(Dataset[Any]):
    """Sample ``i`` is of epoch ``i // n``; its place there depends on the seed and the epoch only.

    So a batch may reach over the end of an epoch, none is left over, and a run resumes by the
    number of samples consumed.

    Args:
        examples: the ``n`` examples.
        num_samples: length of the stream.
        seed: of the shuffling.

    Raises:
        ValueError: there is no example.
    """

    def __init__(self, examples: Sequence[Any], num_samples: int, seed: int) -> None:
        if not len(examples):
            raise ValueError("the training set has no example")
        self._examples, self._length = examples, num_samples
        self._order = lru_cache(maxsize=2)(lambda epoch: _order(len(examples), seed, epoch))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        epoch, place = divmod(index, len(self._examples))
        return self._examples[int(self._order(epoch)[place])]


def _order(size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(size)
