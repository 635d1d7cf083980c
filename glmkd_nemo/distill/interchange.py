"""Interchange of hidden states between samples, for causal distillation (arXiv 2112.02505).

A batch holds its sequences twice: ``[2b, s]``, view 0 and then view 1. In view 1 some positions of
sample ``i`` get the hidden states that sample ``i + 1`` has in view 0, of as many positions of its
own. Which ones is told by two masks ``[b, s]``; the second is in terms of sample ``i + 1``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glmkd_nemo.distill.method import ModelShape
from glmkd_nemo.distill.taps import TapKey

WAYS = ("consecutive", "masked", "random")
ALIGNMENTS = ("full", "middle", "late")


@dataclass
class Interchange:
    """Options: what is interchanged.

    Attributes:
        alignment: ``full`` (at a student layer drawn in each step), ``middle`` or ``late``.
        way: ``consecutive`` (runs of real positions), ``masked`` or ``random``. As in GLMKD
            ``masked`` takes all real positions (not the masked tokens, as in the paper) whatever
            ``share`` and ``max_tokens`` say, and with these two ways positions of padding can be
            drawn: of sample ``i + 1``, with ``random`` of sample ``i`` too.
        share: how many positions, as a share of the shorter one of the two samples.
        max_tokens: at most so many by sample, null for no limit.
    """

    alignment: str = "full"
    way: str = "consecutive"
    share: float = 0.3
    max_tokens: int | None = None

    def check_models(self, student: ModelShape, teacher: ModelShape, outputs: bool) -> None:
        """Refuses options that do not exist, or do not fit these models.

        Args:
            student, teacher: sizes.
            outputs: whether their outputs are compared.

        Raises:
            ValueError: an unknown name, a share outside 0 to 1, a model too shallow, other widths.
        """
        names = (("alignment", self.alignment, ALIGNMENTS), ("way", self.way, WAYS))
        for what, value, known in names:
            if value not in known:
                raise ValueError(f"diito: {what} {value!r} is unknown: {', '.join(known)}.")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"diito: share {self.share} must be between 0 and 1.")
        if teacher.layers < student.layers:
            raise ValueError(
                f"diito: the teacher has {teacher.layers} layers, the student {student.layers}: it "
                "needs a teacher at least as deep."
            )
        if self.alignment == "middle" and student.layers < 3:
            raise ValueError(
                f"diito: a student of {student.layers} layers has none after its middle: set "
                "alignment=full or late."
            )
        if outputs and student.hidden != teacher.hidden:
            raise ValueError(
                f"diito compares outputs as they are, but hidden sizes differ ({student.hidden} "
                f"and {teacher.hidden}): choose equal ones, or set cos=0 and causal_cos=0."
            )

    def draw_positions(self, real: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Draws the positions to be interchanged.

        Args:
            real: ``[b, s]`` booleans, ``False`` for padding.
            rng: draws.

        Returns:
            Booleans ``[b, s]`` of the sample, and of the one after it (the first after the last).
        """
        real = real.cpu()
        mask, dual_mask = torch.zeros_like(real), torch.zeros_like(real)
        lengths, everywhere = real.sum(1).tolist(), range(real.shape[1])
        for i, (length, dual) in enumerate(zip(lengths, [*lengths[1:], lengths[0]], strict=True)):
            shorter = min(length, dual)
            count = int(shorter * self.share)
            count = count if self.max_tokens is None else min(count, self.max_tokens)
            if self.way == "consecutive":
                start, dual_start = rng.randint(0, length - count), rng.randint(0, dual - count)
                mask[i, start : start + count] = True
                dual_mask[i, dual_start : dual_start + count] = True
                continue
            own: Sequence[int] = everywhere
            if self.way == "masked":
                own, count = real[i].nonzero()[:, 0].tolist(), shorter
            mask[i, rng.sample(own, count)] = True
            dual_mask[i, rng.sample(everywhere, count)] = True
        return mask, dual_mask

    def keys(
        self, layers: int, teacher_layers: int, drawn: int
    ) -> tuple[list[TapKey], list[TapKey]]:
        """The tensors that are interchanged, of the student and of the teacher.

        As in GLMKD these are the outputs of input layernorms, which feed attention and not the
        residual stream, and of the final one. With ``full``, student layer ``l`` goes with the
        ``int(t / s)`` teacher layers of its block; teacher layers that remain are in none.

        Args:
            layers, teacher_layers: depths.
            drawn: for ``full``, the student's layer, 1 to ``layers`` (the last is the output).
        """
        output: TapKey = ("output", None)
        if self.alignment == "middle":
            return [("hidden", layers // 2 + 1)], [("hidden", teacher_layers // 2 + 1)]
        if self.alignment == "late":
            return [("hidden", layers - 1), output], [("hidden", teacher_layers - 1), output]
        block = teacher_layers // layers
        ends = range((drawn - 1) * block + 1, drawn * block + 1)
        inner: list[TapKey] = [("hidden", i) for i in ends if i < teacher_layers]
        return ([output], [*inner, output]) if drawn == layers else ([("hidden", drawn)], inner)

    def possible_keys(self, layers: int, teacher_layers: int) -> tuple[list[TapKey], list[TapKey]]:
        """All that :meth:`keys` gives, whatever is drawn."""
        drawn = [self.keys(layers, teacher_layers, k) for k in range(1, layers + 1)]
        mine, theirs = ([key for keys in both for key in keys] for both in zip(*drawn, strict=True))
        return list(dict.fromkeys(mine)), list(dict.fromkeys(theirs))


def interchange(x: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
    """The edit: rows of view 1 replaced by those of view 0; gradients flow to their source.

    Args:
        x: both views, ``[2b, s, h]``.
        masks: two of ``[b, s]``, as :meth:`Interchange.draw_positions` gives them.

    Returns:
        ``[2b, s, h]``, view 0 unchanged.
    """
    first, second = x.chunk(2)
    mask, dual_mask = (m.to(x.device) for m in masks)
    rows = first.roll(-1, 0)[dual_mask]
    return torch.cat([first, second.index_put((mask,), rows)])
