"""The agent of RL-KD (arXiv 2012.06048, section 3.3): which teachers teach which sample."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkd_nemo.distill.method import Batch
from glmkd_nemo.distill.signals import Summary, hard_loss, projected, summary


class Seen(NamedTuple):
    """What the agent decides by, without gradient: semantic representation and the teachers' losses
    ``[b, n]``, and the teachers' predictions."""

    representation: Tensor
    predictions: list[Summary]


@dataclass(frozen=True)
class Decision:
    """A decision of the agent: ``selected [b, T]`` booleans on what it had ``seen``."""

    agent: Agent
    seen: Seen
    selected: Tensor

    def loss(self, reward: Tensor) -> Tensor:
        """Policy loss for a scalar ``reward``: minus the summed probability of what was decided."""
        p = self.agent(self.seen)
        return -torch.where(self.selected, p, 1 - p).sum() * reward

    def as_plain(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        predictions = [list(x) for x in self.seen.predictions]
        seen = {"representation": self.seen.representation, "predictions": predictions}
        return {**seen, "selected": self.selected}


class Agent(nn.Module):
    """A logistic model of each teacher's part.

    Args:
        semantic: width of the semantic representation.
        teachers: number of teachers T.
        values: columns of a prediction (vocabulary, or number of answers).
    """

    def __init__(self, semantic: int, teachers: int, values: int) -> None:
        super().__init__()
        self.semantic, self.values = semantic, values
        self.semantic_mt_loss = nn.Linear(semantic + teachers, teachers)
        self.mt_soft = nn.Linear(values * teachers, teachers)

    def see(self, first: Tensor, predictions: Sequence[Any], batch: Batch, mask: str) -> Seen:
        """Takes down a micro-batch.

        Args:
            first: ``[b * c, h]``, first position of each sequence of the semantic teacher.
            predictions: of the teachers.
            batch: the micro-batch.
            mask: positions of predictions that count, for tokens.
        """
        losses = torch.stack([hard_loss(p, batch) for p in predictions], -1)
        flat = first.reshape(losses.shape[0], -1)
        width = self.semantic - flat.shape[-1]  # an example may have fewer or more answers
        flat = F.pad(flat, (0, width)) if width >= 0 else flat[:, : self.semantic]
        dtype = self.mt_soft.weight.dtype
        representation = torch.cat([flat.to(dtype), losses.to(dtype)], -1).detach()
        return Seen(representation, [summary(p, batch, mask) for p in predictions])

    def forward(self, seen: Seen) -> Tensor:
        """Probability of each teacher's taking part, ``[b, T]``."""
        s = self.semantic_mt_loss(seen.representation) + self.mt_soft.bias
        blocks = self.mt_soft.weight.split(self.values, dim=1)
        for x, weight in zip(seen.predictions, blocks, strict=True):
            s = s + projected(x, weight)
        return s.sigmoid()

    @torch.no_grad()
    def select(self, seen: Seen, draws: random.Random) -> Decision:
        """Draws which teachers take part."""
        p = self(seen)
        noise = torch.tensor([draws.random() for _ in range(p.numel())], device=p.device)
        return Decision(self, seen, noise.view_as(p) < p)

    def remembered(self, plain: Mapping[str, Any]) -> Decision:
        """The decision that ``Decision.as_plain`` gave, on the agent's device."""
        device = self.mt_soft.weight.device
        predictions = [Summary(x.to(device), *rest) for x, *rest in plain["predictions"]]
        seen = Seen(plain["representation"].to(device), predictions)
        return Decision(self, seen, plain["selected"].to(device))
