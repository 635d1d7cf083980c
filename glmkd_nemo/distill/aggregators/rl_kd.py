"""RL-KD: Reinforced Multi-Teacher Selection for Knowledge Distillation (arXiv 2012.06048).

An agent decides for each sample which teachers take part, from a semantic representation (the first
position of a teacher that does not teach), the teachers' losses and soft labels. As in GLMKD its
policy gradient lags one forward, whose loss is the reward; ``reward: 2`` adds the last teacher's.
The first forward has no policy loss, nor has that after a resume with other DP or TP sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from glmkd_nemo.distill.aggregator import Aggregator, Weights, prediction_key
from glmkd_nemo.distill.method import Batch, StepContext, Taps
from glmkd_nemo.distill.policy import Agent, Decision, RLKDConfig
from glmkd_nemo.distill.signals import batch_loss

FIRST = ("output_first", None)


class RLKD(Aggregator):
    """Teachers selected by an agent that is rewarded for the student's loss."""

    Config = RLKDConfig
    extras = ("policy",)

    def __init__(self, config: RLKDConfig, student: Any, teachers: Sequence[Any]) -> None:
        super().__init__(config, student, teachers)
        config.check(len(self.teachers))
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
        first = teachers[c.semantic_teacher or 0][FIRST].value
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
        return None if self._previous is None else self._previous.as_plain()

    def recall(self, memory: Mapping[str, Any]) -> None:
        self._previous = self.agent.remembered(memory)


AGGREGATOR = RLKD
