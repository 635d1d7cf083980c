"""What a model gets between being built and being trained or restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glmkd_nemo.models.build_vocab_map import fill_vocab_map
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.truncate import initialise


def prepare(
    model: GLMModel, cfg: Mapping[str, Any], tokenizer: Any, teachers: Mapping[str, GLMModel]
) -> None:
    """Fills the vocabulary map, then cuts the first weights out of a teacher, as far as asked.

    Args:
        model: this rank's stage.
        cfg: the section ``model``.
        tokenizer: of the model.
        teachers: stages of the hosted teachers by name.

    Raises:
        ValueError: settings that do not fit.
    """
    fill_vocab_map(model, cfg.get("vocab_map"), tokenizer, teachers)
    initialise(model, cfg, teachers, tokenizer)
