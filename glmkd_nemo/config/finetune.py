"""All keys of the configuration of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from glmkd_nemo.config.schema import PretrainSchema


@dataclass
class StageSection:
    """A stage of fine-tuning.

    Attributes:
        name: of its folder.
        overrides: what differs from the command line, in the same form: ``method=tinybert``,
            ``epochs=3``.
        gives: the weights that the next stage starts from: the ``best`` on the development set, or
            the ``last``. Where no term predicts answers, the best ones are no better.
    """

    name: str = "stage"
    gives: str = "best"
    overrides: list[str] = field(default_factory=list)


@dataclass
class FinetuneSchema(PretrainSchema):
    """The whole configuration of ``scripts/finetune.py``.

    Attributes:
        task: ``name`` of the task, and its options.
        data_root: where the tasks' folders are.
        epochs: passes over the training examples; ``trainer.max_steps`` counts instead if set.
        evaluate_every_epochs: ``trainer.val_check_interval`` counts steps instead if set.
        evaluate_first: evaluate before the first step too.
        evaluate_test: write predictions of the test set by the best weights.
        gives: ``last``: write the last weights, too (``last.nemo``); the ``best`` are always.
        stages: trained one after the other, each from the weights that the one before gives;
            without any, there is one.
    """

    task: dict[str, Any] = field(default_factory=dict)
    data_root: str = "data/superglue"
    epochs: float = 10
    evaluate_every_epochs: float = 1
    evaluate_first: bool = True
    evaluate_test: bool = False
    gives: str = "best"
    stages: list[StageSection] = field(default_factory=list)
