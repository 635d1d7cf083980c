"""RL-KD: Reinforced Multi-Teacher Selection for Knowledge Distillation (arXiv 2012.06048).

An agent decides for each sample which teachers take part, from a semantic representation (the
first position of one teacher, which does not teach), the teachers' own losses and their soft
labels. As in GLMKD its policy gradient lags one forward behind, the reward is the loss of the
forward after, and with ``reward: 2`` only the last teacher's loss joins it. The first forward has
no policy loss, nor has that after a resume with other numbers of data- or tensor-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from glmkd_nemo.distill.aggregator import Aggregator, Weights, prediction_key
from glmkd_nemo.distill.method import Batch, StepContext, Taps
from glmkd_nemo.distill.policy import Agent, Decision
from glmkd_nemo.distill.signals import batch_loss

FIRST = ("output_first", None)


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


class RLKD(Aggregator):
    """Teachers selected by an agent that is rewarded for the student's loss."""

    Config = RLKDConfig
    extras = ("policy",)

    def __init__(self, config: RLKDConfig, student: Any, teachers: Sequence[Any]) -> None:
        super().__init__(config, student, teachers)
        _check(config, len(self.teachers))
        semantic = config.semantic_teacher
        self.taught_by = [i for i in self.taught_by if i != semantic]
        self.key = prediction_key(config.of)
        self.fixed_intermediate = config.phase == "average"
        if config.phase == "rl":
            self.student_keys = (self.key,)
            self.teacher_keys = (self.key, FIRST)
        width = config.semantic_size if semantic is None else self.teachers[semantic].hidden
        values = student.vocab if config.of == "tokens" else config.classes
        self.agent = Agent((width or 1) * config.sequences, len(self.taught_by), values)
        self._previous: Decision | None = None

    def intermediate(self, context: StepContext) -> list[float]:
        """In the phase ``average``: the mean, times alpha."""
        share = self.config.alpha / len(self.taught_by)
        return [share if i in self.taught_by else 0.0 for i in range(len(self.teachers))]

    def weights(
        self, student: Taps, teachers: Sequence[Taps], batch: Batch, context: StepContext
    ) -> Weights:
        """Selection of each teacher for each sample, and the agent's policy loss."""
        c = self.config
        if c.phase == "average":
            fixed = self.intermediate(context)
            return Weights(fixed, fixed, 1 - c.alpha)
        reward = -batch_loss(student[self.key], batch).detach()
        if c.reward == 2:
            reward = reward - batch_loss(teachers[-1][self.key], batch).detach()
        extra = {} if self._previous is None else {"policy": self._previous.loss(reward)}
        assert c.semantic_teacher is not None
        first = teachers[c.semantic_teacher][FIRST].value
        predictions = [teachers[i][self.key] for i in self.taught_by]
        seen = self.agent.see(first, predictions, batch, c.mask)
        draws = context.draws("rl_kd", context.step, context.micro_batch)
        self._previous = self.agent.select(seen, draws)
        shares = self._previous.selected.to(first.dtype).T * c.alpha / len(self.taught_by)
        chosen: list[Tensor | float] = [0.0] * len(self.teachers)
        for i, share in zip(self.taught_by, shares, strict=True):
            chosen[i] = share
        return Weights(chosen, chosen, 1 - c.alpha, extra, extra_weight=c.alpha)

    def memory(self) -> dict[str, Any] | None:
        """The decision that the next forward rewards."""
        return None if self._previous is None else self._previous.as_plain()

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Goes on with it."""
        self._previous = self.agent.remembered(memory)


def _check(c: RLKDConfig, teachers: int) -> None:
    if c.phase not in ("average", "rl"):
        raise ValueError(f"rl_kd: phase {c.phase!r} is unknown: average, rl.")
    if c.reward not in (1, 2):
        raise ValueError(f"rl_kd: reward {c.reward!r} is unknown: 1, 2.")
    if not 0.0 < c.alpha <= 1.0:
        raise ValueError(f"rl_kd: alpha {c.alpha} must be above 0 and at most 1.")
    if c.semantic_teacher is None and c.phase == "rl":
        raise ValueError("rl_kd: phase rl needs semantic_teacher, the number of a teacher.")
    if c.semantic_teacher is not None and not (0 <= c.semantic_teacher < teachers > 1):
        raise ValueError(
            f"rl_kd: semantic_teacher {c.semantic_teacher} must be one of several teachers, "
            f"numbered from 0; there are {teachers}."
        )


AGGREGATOR = RLKD
