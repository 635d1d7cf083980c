"""Which samples a data-parallel rank reads for each global batch."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler


class GlobalBatchSampler(Sampler[list[int]]):
    """Global batch k holds samples k*g .. (k+1)*g - 1, whatever the number of ranks.

    Rank r of n gets the r-th of n contiguous parts. Nothing is shuffled here: samples are random
    windows already. To resume, start at the number of samples consumed.

    Args:
        total: samples of the dataset.
        consumed_samples: samples of earlier steps.
        global_batch_size: g, samples of one optimizer step over all ranks.
        dp_rank, dp_size: data-parallel rank r and size n.
        drop_last: leave out a last global batch that is not full.

    Raises:
        ValueError: numbers that do not go together.
    """

    def __init__(
        self,
        total: int,
        consumed_samples: int,
        global_batch_size: int,
        dp_rank: int,
        dp_size: int,
        drop_last: bool = True,
    ) -> None:
        if global_batch_size <= 0 or global_batch_size % dp_size:
            raise ValueError(
                f"global_batch_size={global_batch_size} is not a positive multiple of the "
                f"data-parallel size {dp_size}"
            )
        if not 0 <= dp_rank < dp_size:
            raise ValueError(f"data-parallel rank {dp_rank} of {dp_size}")
        if consumed_samples < 0 or total < 0:
            raise ValueError(f"consumed_samples={consumed_samples}, total={total}: must be >= 0")
        rest = max(total - consumed_samples, 0) % global_batch_size
        if not drop_last and rest % dp_size:
            raise ValueError(
                f"the last global batch has {rest} samples, not a multiple of the data-parallel "
                f"size {dp_size}: use drop_last or another number of samples"
            )
        self._total = total
        self._consumed = consumed_samples
        self._size = global_batch_size
        self._rank, self._ranks = dp_rank, dp_size
        self._drop_last = drop_last

    def __len__(self) -> int:
        """Global batches that are left."""
        left = max(self._total - self._consumed, 0)
        return left // self._size if self._drop_last else -(-left // self._size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(len(self)):
            first = self._consumed + batch * self._size
            part = (min(first + self._size, self._total) - first) // self._ranks
            first += self._rank * part
            yield list(range(first, first + part))
