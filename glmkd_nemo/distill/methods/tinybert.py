"""TinyBERT: Distilling BERT for Natural Language Understanding (arXiv 1909.10351, section 3).

As in GLMKD: attention before the softmax, hidden states (see ``layer_choice.py``) after one
projection shared by all layers, padded positions averaged in.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from glmkd_nemo.distill.attention_losses import attention_mse, check_equal_heads
from glmkd_nemo.distill.layer_choice import RandomLayers, pair_parts, state
from glmkd_nemo.distill.losses import mse
from glmkd_nemo.distill.method import Method, ModelShape, Part, StepContext
from glmkd_nemo.distill.taps import Tap

LAYERS = ("all", "final", "embedding", "embedding_final")


@dataclass
class TinyBERTConfig(RandomLayers):
    """Options of TinyBERT, and those of :class:`RandomLayers`.

    Attributes:
        attention, embedding, final: whether these take part.
        layers: ``all``, or only the ``final`` hidden states, the ``embedding``, or both of them.
        custom_final: with ``final`` or ``embedding_final``: take the n-th last hidden states.
    """

    attention: bool = True
    embedding: bool = True
    final: bool = True
    layers: str = "all"
    custom_final: int = 1


class TinyBERT(Method):
    """``attention_scores.i`` by student layer, projected ``hidden_states.i`` from the embedding."""

    Config = TinyBERTConfig
    teacher: ModelShape

    def __init__(self, config: TinyBERTConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        if config.layers not in LAYERS:
            raise ValueError(f"tinybert: layers {config.layers!r} is unknown: {', '.join(LAYERS)}.")
        if config.attention and config.layers == "all":
            check_equal_heads("tinybert", student, teacher, "set attention=false or equal heads")
        config.check("tinybert")
        self.fit_dense = nn.Linear(student.hidden, teacher.hidden)

    def parts(self, context: StepContext) -> list[Part]:
        m, n = self.teacher.layers, self.student.layers
        return self._parts(self.config.ends(context, "tinybert", m, n, self.place[0]))

    def possible_parts(self) -> list[Part]:
        m, n = self.teacher.layers, self.student.layers
        return [p for ends in self.config.possible_ends(m, n) for p in self._parts(ends)]

    def _parts(self, ends: list[int]) -> list[Part]:
        c, n, m = self.config, self.student.layers, self.teacher.layers
        back = c.custom_final - 1
        layers, states = [], [(0, 0)] if c.layers.startswith("embedding") else []
        if c.layers == "all":
            layers = [(i, ends[i + 1] - 1) for i in range(n if c.attention else 0)]
            states = [(i, ends[i]) for i in range(0 if c.embedding else 1, n + int(c.final))]
        elif c.layers != "embedding" and (c.final or back):
            states.append((n - back, m - back))
        scores = ((("scores", s), ("scores", t)) for s, t in layers)
        hidden = ((state(s, n), state(t, m)) for s, t in states)
        found = pair_parts("attention_scores", attention_mse, scores)
        return found + pair_parts("hidden_states", self._projected, hidden)

    def _projected(self, student: Tap, teacher: Tap) -> Tensor:
        return mse(student.map(self.fit_dense), teacher)


METHOD = TinyBERT
