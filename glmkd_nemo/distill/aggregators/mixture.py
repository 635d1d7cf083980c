"""A mixture of aggregators: their losses are summed (GLMKD's MixMT, arXiv 2306.06629)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from glmkd_nemo.distill.aggregator import Aggregator, Factor, Weights
from glmkd_nemo.distill.aggregators import aggregator_from_dict
from glmkd_nemo.distill.method import Batch, StepContext, Taps


@dataclass
class MixtureConfig:
    """Options of a mixture.

    Attributes:
        members: aggregators, each with its name and options.
    """

    members: list[dict[str, Any]] = field(default_factory=list)


class Mixture(Aggregator):
    """Weights of several aggregators, added up."""

    Config = MixtureConfig

    def __init__(self, config: MixtureConfig, student: Any, teachers: Sequence[Any]) -> None:
        super().__init__(config, student, teachers)
        if not config.members:
            raise ValueError("mixture: members is empty; list aggregators with name and options.")
        built = [aggregator_from_dict(node, student, teachers) for node in config.members]
        if any(member.extras for member in built):
            raise ValueError("mixture: rl_kd has a phase of its own; it cannot be mixed.")
        self.members = nn.ModuleList(built)
        self.student_keys = tuple({key for m in built for key in m.student_keys})
        self.teacher_keys = tuple({key for m in built for key in m.teacher_keys})
        self.fixed_intermediate = all(m.fixed_intermediate for m in built)

    def intermediate(self, context: StepContext) -> list[Any]:
        """Sums of the members' factors."""
        return _added([m.intermediate(context) for m in self._members()])

    def weights(
        self, student: Taps, teachers: Sequence[Taps], batch: Batch, context: StepContext
    ) -> Weights:
        """Sums of the members' weights; each adds the hard label, as in GLMKD."""
        found = [m.weights(student, teachers, batch, context) for m in self._members()]
        hard: Factor = sum(w.hard for w in found)
        prediction, intermediate = (
            _added([getattr(w, kind) for w in found]) for kind in ("prediction", "intermediate")
        )
        return Weights(prediction, intermediate, hard)

    def _members(self) -> list[Aggregator]:
        return [member for member in self.members if isinstance(member, Aggregator)]


def _added(factors: Sequence[Sequence[Any]]) -> list[Any]:
    return [sum(column) for column in zip(*factors, strict=True)]


AGGREGATOR = Mixture
