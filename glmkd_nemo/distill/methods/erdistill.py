"""ERDistill: relations of hidden states to each other (local) and to all word embeddings (global).

A method of GLMKD's code (arXiv 2306.06629), without a paper. Kept as there: padding counts; states
meet by every (t // s)-th, so that the student's final one meets an inner one where that does not
come out even; ``1plus`` is the last two against the teacher's final one, the first at a tenth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from glmkd_nemo.distill.embedding_relations import KINDS, global_relation, local_relation
from glmkd_nemo.distill.layer_choice import state
from glmkd_nemo.distill.layer_map import skip
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext, Taps
from glmkd_nemo.distill.taps import TapKey

LOGITS = ("logits", None)


@dataclass
class ERDistillConfig:
    """Options of ERDistill.

    Attributes:
        loss: ``mse`` of the relations, or ``kl`` of their softmax.
        layers: ``all`` states, the last ``two``, the last ``one``, or ``1plus``.
        local_relations, global_relations: whether these take part.
    """

    loss: str = "mse"
    layers: str = "all"
    local_relations: bool = True
    global_relations: bool = True


class ERDistill(Method):
    """``local.i`` and ``global.i``, by compared state."""

    Config = ERDistillConfig

    def __init__(self, config: ERDistillConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        n, m = student.layers, teacher.layers
        its = [*range(0, m, skip(m, n)[1]), m]
        pairs = {"all": [*zip(range(n + 1), its, strict=False)], "one": [(n, m)]}
        pairs |= {"two": [(n - 1, its[-2]), (n, m)], "1plus": [(n - 1, m), (n, m)]}
        for key, known in ("loss", KINDS), ("layers", tuple(pairs)):
            if (value := getattr(config, key)) not in known:
                raise ValueError(f"erdistill: {key} {value!r} is unknown: {', '.join(known)}.")
        if not (config.local_relations or config.global_relations):
            raise ValueError("erdistill: set local_relations or global_relations to true.")
        self.pairs = [(state(s, n), state(t, m)) for s, t in pairs[config.layers]]

    def parts(self, context: StepContext) -> list[Part]:
        c, each = self.config, range(len(self.pairs))
        local = [self._part("local", local_relation, i) for i in each if c.local_relations]
        return local + [
            self._part("global", global_relation, i, LOGITS) for i in each if c.global_relations
        ]

    def _part(self, name: str, loss: Callable[..., Tensor], i: int, *more: TapKey) -> Part:
        s, t = ((key, *more) for key in self.pairs[i])

        def compare(student: Taps, teacher: Taps, batch: Batch) -> Tensor:
            return loss(self.config.loss, *(student[k] for k in s), *(teacher[k] for k in t))

        weight = 0.1 if self.config.layers == "1plus" and i == 0 else 1.0
        return Part(f"{name}.{i}", compare, s, t, weight)


METHOD = ERDistill
