"""What fine-tuning and evaluation need of a downstream task.

A task knows its files, turns rows into items, items into batches, and scores into metrics. It knows
nothing of models, devices or parallelism, and the engine nothing of its rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glmkd_nemo.data.loader import collate
from glmkd_nemo.models.heads import HeadConfig

SPLITS = ("train", "valid", "test")
Scores = Sequence[npt.NDArray[np.float64]]
# a token task's score of an item: the four sums over its tokens
NATS, TOKENS, RIGHT, ALL_RIGHT = range(4)


class Task(ABC):
    """A downstream task.

    Attributes:
        name: as in ``task=NAME``.
        head: what stands on the models; ``None``: the objective is over tokens to be predicted.
        main_metric: the one that a checkpoint and a configuration are chosen by.
        lower_is_better: whether a smaller main metric is the better one (perplexity).
        positions: most positions that an item may have; 0: not known.
    """

    name: str
    head: HeadConfig | None = None
    main_metric: str
    lower_is_better: bool = False
    positions: int = 0

    def check_positions(self, available: int) -> None:
        """Refuses a model whose position tables are too small.

        Raises:
            ValueError: its ``max_position_embeddings`` is below :attr:`positions`.
        """
        if self.positions > available:
            raise ValueError(
                f"task {self.name} has sequences with up to {self.positions} positions, but the "
                f"model has max_position_embeddings={available}: lower task.seq_length (or "
                "task.max_src_length and task.max_tgt_length), or take another model."
            )

    @abstractmethod
    def dataset(self, split: str) -> Sequence[Any]:
        """Items of ``train``, ``valid`` or ``test``; read once.

        Raises:
            FileNotFoundError: the split's file is missing.
            ValueError: a row is malformed: names file and line.
        """

    @abstractmethod
    def metrics(self, split: str, scores: Scores) -> dict[str, float]:
        """Metrics of a split, the main one among them.

        Args:
            split: of :meth:`dataset`.
            scores: one array per item, in the order of the dataset: the logits of its answers
                ``[c]``, or, without a head, ``[4]``: the sum of -log p over its tokens in nats,
                its tokens, how many of them are the most likely ones, and 1 if all of them are.
        """

    def collate(self, split: str, items: Sequence[Any]) -> dict[str, Any]:
        """The fields of :class:`~glmkd_nemo.distill.method.Batch` of some items of a split.

        The first axis is ``b``, or ``b * c`` where each answer is a sequence of its own. Items of a
        token task are dictionaries of numpy arrays with the keys of pre-training.
        """
        return dict(collate(items))

    def has_labels(self, split: str) -> bool:
        """Whether metrics of a split can be computed (official test sets have no labels)."""
        return True

    def baseline(self, split: str) -> dict[str, float] | None:
        """Metrics of the answer that needs no model: the majority class; where there is one."""
        return None

    def confusion(self, split: str, scores: Scores) -> dict[str, Any] | None:
        """``labels``, and ``counts[i][j]``: how often label i was answered by j; where it helps."""
        return None

    def write_predictions(self, split: str, scores: Scores, folder: Path) -> list[Path]:
        """Writes what the model predicts in the task's own format.

        Args:
            split, scores: as in :meth:`metrics`.
            folder: where to; it exists.

        Returns:
            The files written; none by default.
        """
        return []
