"""The agent of RL-KD (arXiv 2012.06048, section 3.3), and its options."""

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


@dataclass
class RLKDConfig:
    """Options of RL-KD.

    Attributes:
        phase: ``average`` (first, all teachers) or ``rl`` (the agent selects).
        alpha: weight of distillation; the hard label has ``1 - alpha``.
        reward: 1: minus the student's loss; 2: minus the last teacher's too.
        semantic_teacher: number of the teacher that gives the semantic representation; ``None``
            only in the phase ``average``.
        semantic_size: width of that representation where no teacher gives it.
        of: ``tokens`` or ``classes``.
        classes: answers of an example, for ``of: classes``.
        sequences: sequences of an example whose first positions make up the representation.
        mask: positions of the soft labels that count, for tokens.
    """

    phase: str = "rl"
    alpha: float = 0.5
    reward: int = 1
    semantic_teacher: int | None = 0
    semantic_size: int | None = None
    of: str = "tokens"
    classes: int = 2
    sequences: int = 1
    mask: str = "target"

    def check(self, teachers: int) -> None:
        """Refuses what cannot work with so many teachers.

        Raises:
            ValueError: by name, with what is possible.
        """
        if self.phase not in ("average", "rl"):
            raise ValueError(f"rl_kd: phase {self.phase!r} is unknown: average, rl.")
        if self.reward not in (1, 2):
            raise ValueError(f"rl_kd: reward {self.reward!r} is unknown: 1, 2.")
        if not 0.0 < self.alpha <= 1.0:
            raise ValueError(f"rl_kd: alpha {self.alpha} must be above 0 and at most 1.")
        semantic = self.semantic_teacher
        if semantic is None and self.phase == "rl":
            raise ValueError("rl_kd: phase rl needs semantic_teacher, the number of a teacher.")
        if semantic is not None and not 0 <= semantic < teachers > 1:
            raise ValueError(
                f"rl_kd: semantic_teacher {semantic} must be one of several teachers, numbered "
                f"from 0; there are {teachers}."
            )


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
