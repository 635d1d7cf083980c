"""All keys of the configuration of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from glmkd_nemo.config.finetune import FinetuneSchema


@dataclass
class EvaluateSchema(FinetuneSchema):
    """The whole configuration of ``scripts/evaluate.py``; keys of training have no effect.

    Attributes:
        split: train, valid or test.
        score: compute the metrics that follow from the model's probabilities.
        generate: generate texts, where the task has any, and compute their metrics.
        limit: generate for so many examples only.
    """

    split: str = "test"
    score: bool = True
    generate: bool = True
    limit: int | None = None
