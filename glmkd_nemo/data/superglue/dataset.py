"""A split of a SuperGLUE task, ready to be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from glmkd_nemo.data.superglue.collate import collate
from glmkd_nemo.data.superglue.config import (
    LABELS,
    VARIABLE_CHOICES,
    SuperGLUEConfig,
    file_of,
    form_of,
    kind_of_split,
)
from glmkd_nemo.data.superglue.features import Feature, build_feature
from glmkd_nemo.data.superglue.readers import read_examples
from glmkd_nemo.data.tokenizer import GLMTokenizer
from glmkd_nemo.distill.task_batch import Fields


class SuperGLUEDataset(Sequence[Feature]):
    """Features of a split, made as they are asked for.

    Args:
        cfg: of the task.
        tokenizer: of the model.
        split: ``train``, ``dev`` (or ``valid``), ``test``, or the name of another file (dev32).
        for_train: ReCoRD: make training examples of a dev split, to have a loss on it.

    Attributes:
        examples: as read, in the order of the features.
        labels: of the task.
        form: of ``form_of``.
        choices: answers that every batch has (``fixed_choices``); ``None``: as many as it needs.

    Raises:
        FileNotFoundError: the split's file is missing.
        ValueError: a row is malformed (``BadRow`` names file and line), or none has what the task
            chooses among.
    """

    def __init__(
        self, cfg: SuperGLUEConfig, tokenizer: GLMTokenizer, split: str, for_train: bool = False
    ) -> None:
        path = file_of(cfg.data_dir, split)
        few_shot = cfg.few_shot if kind_of_split(split) == "train" else None
        self.cfg, self.tokenizer = cfg, tokenizer
        self.examples = read_examples(
            cfg.task,
            path,
            split,
            for_train,
            cfg.cloze,
            cfg.max_choices,
            few_shot,
            cfg.few_shot_seed,
        )
        self.labels = LABELS[cfg.task]
        self.form = form_of(cfg)
        scored = cfg.task == "wsc" and cfg.cloze
        if scored and not any("candidates" in e.meta for e in self.examples):
            raise ValueError(
                f"{path}: no row has candidates, so there is nothing to compare the span with: add "
                "them, or use task=wsc_generative"
            )
        self.choices = self._most() if cfg.fixed_choices else None

    def _most(self) -> int | None:
        """``max_choices``, or more where an example to be evaluated has more."""
        if self.cfg.task not in VARIABLE_CHOICES or self.form == "generative":
            return None
        own = [e.num_choices or 1 + len(e.meta.get("candidates", ())) for e in self.examples]
        return max(self.cfg.max_choices, *own)

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Feature: ...
    @overload
    def __getitem__(self, index: slice) -> list[Feature]: ...
    def __getitem__(self, index: int | slice) -> Feature | list[Feature]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return build_feature(self.examples[index], self.cfg, self.tokenizer)

    def collate(self, features: Sequence[Feature]) -> Fields:
        """A batch of features; see :func:`~glmkd_nemo.data.superglue.collate.collate`."""
        return collate(features, self.form, self.choices)
