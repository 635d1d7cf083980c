"""DistilBERT, a distilled version of BERT (arXiv 1910.01108, section 3): the cosine term.

Its soft and hard labels are the terms ``kd`` and ``hard``, weighted 5 and 2 to 1 of this one. As in
GLMKD the mean runs over all positions, and a masked one counts as orthogonal: a loss of 1, without
gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.alignment import Aligned
from glmkd_nemo.distill.layer_choice import state
from glmkd_nemo.distill.method import MASKS, Batch, ModelShape, Part, StepContext, Taps
from glmkd_nemo.distill.taps import TapKey


@dataclass
class DistilBERTConfig:
    """Options of DistilBERT.

    Attributes:
        mask: positions whose direction counts, as for ``kd``; the recipe leaves out padding.
        fix_layernorm: compare what the last layers pass on, after LayerNorms of this term's own
            (only the student's is trained), instead of the final hidden states.
    """

    mask: str = "pad_labels"
    fix_layernorm: bool = False


class DistilBERT(Aligned):
    """Direction of the final hidden states."""

    Config = DistilBERTConfig

    def __init__(self, config: DistilBERTConfig, student: ModelShape, teacher: ModelShape) -> None:
        remedy = "choose equal hidden sizes, or tinybert, which projects"
        super().__init__(config, student, teacher, "none", config.fix_layernorm, remedy)
        if config.mask not in MASKS:
            raise ValueError(f"distilbert: mask {config.mask!r} is unknown: {', '.join(MASKS)}.")

    def parts(self, context: StepContext) -> list[Part]:
        """One part, ``cosine``."""
        s, t = (self._last(model.layers) for model in (self.student, self.teacher))
        return [Part("cosine", partial(self._loss, s, t), (s,), (t,))]

    def _last(self, layers: int) -> TapKey:
        return ("layer_output", layers - 1) if self.config.fix_layernorm else state(layers, layers)

    def _loss(self, s: TapKey, t: TapKey, student: Taps, teacher: Taps, batch: Batch) -> Tensor:
        x, y = self.align(student[s].value, teacher[t].value)
        return 1 - (F.cosine_similarity(x, y, dim=-1) * batch.mask(self.config.mask)).mean(1)


METHOD = DistilBERT
