"""The options ``distill_random_data*``, which every student model of the reference has."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from glmkd_nemo.replay.flags import Flags


def random_data(flags: Flags) -> dict[str, Any] | None:
    """The section ``distill.random_data``, or ``None`` where nothing is perturbed.

    The latter also holds for a repeat that never comes, as in the reference's own example
    (``--distill_random_data_n=1 --forward_repeat_num=0``).
    """
    extra = int(flags.get("forward_repeat_num", 0))
    asked = [int(n) for n in str(flags.get("distill_random_data_n", "0")).split(",")]
    passes = [n for n in asked if n <= extra]
    if "distill_random_data" not in flags or not passes:
        return None
    return {
        "mode": flags["distill_random_data"],
        "how": flags.get("distill_random_data_method", "shuffle"),
        "passes": passes,
        "extra": extra,
    }


class RecordedShuffle(random.Random):
    """Gives the permutation that the reference drew, which is told by its seed.

    Args:
        record: ``case.json``.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        import torch  # here: the mapping of options is also read by what has no need of torch

        super().__init__(0)
        seed = int(record["rng"]["python_numpy_torch_seed"])
        self._torch = torch.Generator().manual_seed(seed)

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        """All of ``population``, shuffled."""
        import torch

        order: list[int] = torch.randperm(k, generator=self._torch).tolist()
        return [population[i] for i in order]
