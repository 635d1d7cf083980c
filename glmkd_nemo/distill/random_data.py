"""Randomly perturbed inputs, on which a student follows its teacher beyond the data it was given.

As in GLMKD *all* token ids of a micro-batch are perturbed, special tokens and padding included;
positions, masks and labels stay those of the true text.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from glmkd_nemo.distill.hint import did_you_mean
from glmkd_nemo.distill.method import Batch
from glmkd_nemo.distill.views import stacked

MODES = ("dual", "replace")
HOW = ("shuffle", "sample")


@dataclass
class RandomDataConfig:
    """Options, ``distill.random_data``. A micro-batch is seen ``1 + extra`` times in a step.

    Attributes:
        mode: ``replace`` the token ids, or ``dual``: append a perturbed copy of the micro-batch.
        how: ``shuffle`` the ids of the micro-batch, across samples, or ``sample`` new ones,
            uniform over the vocabulary.
        passes: which times are perturbed: 0 is the first one.
        extra: how often a micro-batch is seen again; the losses of all times are added up.

    Raises:
        ValueError: an unknown name, or no time to perturb.
    """

    mode: str = "replace"
    how: str = "sample"
    passes: list[int] = field(default_factory=lambda: [0])
    extra: int = 0

    def __post_init__(self) -> None:
        where = "distill.random_data"
        for key, value, known in (("mode", self.mode, MODES), ("how", self.how, HOW)):
            if value not in known:
                raise ValueError(f"{where}.{key}={value!r} is unknown: {', '.join(known)}.")
        if self.extra < 0:
            raise ValueError(f"{where}.extra={self.extra} must not be negative.")
        if not self.passes:
            raise ValueError(f"{where}.passes is empty: leave random_data out altogether.")
        if outside := [n for n in self.passes if not 0 <= n <= self.extra]:
            raise ValueError(
                f"{where}.passes has {outside}, but a micro-batch is seen {1 + self.extra} times "
                f"(0 to {self.extra}): raise {where}.extra, or take that number out."
            )

    @property
    def copies(self) -> int:
        """Sequences that the models see per sequence of the data, in one step."""
        return 1 + self.extra + (len(set(self.passes)) if self.mode == "dual" else 0)


def random_data_from_dict(node: Mapping[str, Any]) -> RandomDataConfig:
    """Reads ``distill.random_data``.

    Raises:
        ValueError: an unknown key (the nearest is named) or value.
    """
    known = [f.name for f in fields(RandomDataConfig)]
    for key in node:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ValueError(f"distill.random_data has no key {key!r}.{hint}")
    return RandomDataConfig(**node)


def seen(
    batch: Batch, config: RandomDataConfig, rng: random.Random, vocab_size: int
) -> list[Batch]:
    """The micro-batch as it is seen each time: ``1 + extra`` batches, perturbed where asked.

    Args:
        batch: as the data loader gave it.
        config: options.
        rng: draws.
        vocab_size: of the tokenizer.
    """
    return [
        perturb(batch, config, rng, vocab_size) if n in config.passes else batch
        for n in range(1 + config.extra)
    ]


def perturb(batch: Batch, config: RandomDataConfig, rng: random.Random, vocab_size: int) -> Batch:
    """The batch with perturbed ids in place of its own, or (``dual``) after its own.

    Returns:
        A batch of ``b`` samples, or of ``2b``: all fields of the task are doubled too.
    """
    ids = batch.input_ids
    if config.how == "shuffle":
        order = torch.tensor(rng.sample(range(ids.numel()), ids.numel()))
        drawn = ids.flatten()[order.to(ids.device)]
    else:
        drawn = torch.tensor(rng.choices(range(vocab_size), k=ids.numel()), device=ids.device)
    perturbed = replace(batch, input_ids=drawn.view_as(ids).to(ids.dtype))
    return perturbed if config.mode == "replace" else stacked([batch, perturbed])
