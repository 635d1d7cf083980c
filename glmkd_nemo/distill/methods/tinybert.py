"""TinyBERT: Distilling BERT for Natural Language Understanding (arXiv 1909.10351, section 3).

As in GLMKD: attention before the softmax, hidden states (output of each layer's input layernorm,
layer 0 standing for the embedding, and of the final one) after one projection shared by all layers,
padded positions averaged in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from glmkd_nemo.distill.layer_map import uniform_segments
from glmkd_nemo.distill.losses import mse
from glmkd_nemo.distill.method import Batch, Method, ModelShape, Part, StepContext, Taps
from glmkd_nemo.distill.taps import TapKey

LAYERS = ("all", "final", "embedding", "embedding_final")


@dataclass
class TinyBERTConfig:
    """Options of TinyBERT.

    Attributes:
        attention, embedding, final: whether these take part.
        layers: ``all``, or only the ``final`` hidden states, the ``embedding``, or both of them.
        custom_final: with ``final`` or ``embedding_final``: take the n-th last hidden states.
        random_layers: draw the teacher's layers anew, sorted, every so many epochs (or steps, where
            ``random_every_epochs`` is 0).
    """

    attention: bool = True
    embedding: bool = True
    final: bool = True
    layers: str = "all"
    custom_final: int = 1
    random_layers: bool = False
    random_every_epochs: int = 1
    random_every_steps: int = 3000


class TinyBERT(Method):
    """Attention scores and projected hidden states."""

    Config = TinyBERTConfig
    teacher: ModelShape

    def __init__(self, config: TinyBERTConfig, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        if config.layers not in LAYERS:
            raise ValueError(f"tinybert: layers {config.layers!r} is unknown: {', '.join(LAYERS)}.")
        if config.attention and config.layers == "all" and student.heads != teacher.heads:
            raise ValueError(
                f"tinybert compares attention head by head, but the student has {student.heads} "
                f"heads and the teacher {teacher.heads}: set attention=false or equal heads."
            )
        if config.random_layers and max(config.random_every_epochs, config.random_every_steps) < 1:
            raise ValueError("tinybert: random_every_epochs or random_every_steps must be above 0.")
        self.fit_dense = nn.Linear(student.hidden, teacher.hidden)

    def parts(self, context: StepContext) -> list[Part]:
        """``attention_scores.i`` by student layer, ``hidden_states.i`` from the embedding up."""
        if self.config.random_layers:
            return self._parts(self._draw(context))
        return self._parts(uniform_segments(self.teacher.layers, self.student.layers))

    def possible_parts(self) -> list[Part]:
        """With random layers: each student layer with every teacher layer that can be drawn."""
        if not self.config.random_layers:
            return self.parts(StepContext())
        n, m = self.student.layers, self.teacher.layers
        draws = [[0, *range(shift, shift + n - 1), m] for shift in range(1, m - n + 2)]
        return [part for ends in draws for part in self._parts(ends)]

    def _parts(self, ends: list[int]) -> list[Part]:
        c, n, m = self.config, self.student.layers, self.teacher.layers
        scores, hidden = [], []
        if c.layers == "all":
            hidden = [_pair("hidden", i, ends[i]) for i in range(0 if c.embedding else 1, n)]
            scores = [_pair("scores", i, ends[i + 1] - 1) for i in range(n if c.attention else 0)]
        elif c.layers != "final":
            hidden = [_pair("hidden", 0, 0)]
        if c.layers in ("final", "embedding_final") and c.custom_final > 1:
            hidden.append(_pair("hidden", n - c.custom_final + 1, m - c.custom_final + 1))
        elif c.layers != "embedding" and c.final:
            hidden.append(_pair("output", None, None))
        named = [(f"attention_scores.{i}", pair) for i, pair in enumerate(scores)]
        named += [(f"hidden_states.{i}", pair) for i, pair in enumerate(hidden)]
        return [Part(n, partial(self._loss, s, t), (s,), (t,)) for n, (s, t) in named]

    def _draw(self, context: StepContext) -> list[int]:
        c, n, m = self.config, self.student.layers, self.teacher.layers
        every = c.random_every_epochs
        turn = context.epoch // every if every else context.step // c.random_every_steps
        return [0, *sorted(context.draws("tinybert", turn).sample(range(1, m), n - 1)), m]

    def _loss(self, s: TapKey, t: TapKey, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        mine = student[s] if s[0] == "scores" else student[s].map(self.fit_dense)
        return mse(mine, teacher[t])


def _pair(tap: str, student: int | None, teacher: int | None) -> tuple[TapKey, TapKey]:
    return (tap, student), (tap, teacher)


METHOD = TinyBERT
