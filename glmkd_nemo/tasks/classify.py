"""SuperGLUE as tasks: answers are chosen, by a cloze question or a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sklearn.metrics import confusion_matrix

from glmkd_nemo.data.superglue import LABELS, SuperGLUEConfig, file_of, head_kind, num_classes
from glmkd_nemo.data.superglue.dataset import SuperGLUEDataset
from glmkd_nemo.data.superglue.submission import write_submission
from glmkd_nemo.data.tokenizer import GLMTokenizer
from glmkd_nemo.metrics import superglue as metrics
from glmkd_nemo.models.heads import HeadConfig
from glmkd_nemo.tasks.task import Scores, Task


@dataclass
class SuperGLUETaskConfig(SuperGLUEConfig):
    """Options of a SuperGLUE task; those of its sequences are in the base class.

    Attributes:
        name: of the task.
        train, valid, test: files of the splits, without ``.jsonl`` (FewGLUE: ``valid: dev32``).
        length_penalty: of answers of several tokens.
        log_softmax: of cloze heads; ``None``: as GLM does.
        pool: of the classifier (``cloze: false``): cls, start or pad.
        dropout: of the classifier.
    """

    task: str = field(init=False, default="")
    name: str = "rte"
    train: str = "train"
    valid: str = "valid"
    test: str = "test"
    length_penalty: float = 0.0
    log_softmax: bool | None = None
    pool: str = "cls"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.task = self.name
        super().__post_init__()


class SuperGLUETask(Task):
    """One of SuperGLUE's eight tasks, or ``wsc_generative``.

    Args:
        cfg: options.
        tokenizer: of the model.
    """

    Config = SuperGLUETaskConfig

    def __init__(self, cfg: SuperGLUETaskConfig, tokenizer: GLMTokenizer) -> None:
        self.cfg, self.tokenizer, self.name = cfg, tokenizer, cfg.name
        self.main_metric = metrics.main_metric(cfg.name)
        self.head, self.positions = _head(cfg), cfg.seq_length
        self._sets: dict[str, SuperGLUEDataset] = {}

    def _file(self, split: str) -> str:
        return str(getattr(self.cfg, split))

    def dataset(self, split: str) -> SuperGLUEDataset:
        """Examples of a split's file; see :func:`~glmkd_nemo.data.superglue.read_examples`."""
        if split not in self._sets:
            self._sets[split] = SuperGLUEDataset(self.cfg, self.tokenizer, self._file(split))
        return self._sets[split]

    def collate(self, split: str, items: Sequence[Any]) -> dict[str, Any]:
        """Choices are padded to the most of the batch, unless ``fixed_choices``."""
        return self.dataset(split).collate(items)

    def has_labels(self, split: str) -> bool:
        """Whether all examples of the split have one."""
        examples = self.dataset(split).examples
        if self.name == "record":
            return all(example.meta["answers"] for example in examples)
        return all(example.label is not None for example in examples)

    def metrics(self, split: str, scores: Scores) -> dict[str, float]:
        """SuperGLUE's metrics, see :mod:`glmkd_nemo.metrics.superglue`."""
        examples = self.dataset(split).examples
        return metrics.evaluate(self.name, examples, self._labels, scores, self.cfg.cloze)

    def baseline(self, split: str) -> dict[str, float] | None:
        """Of always giving the most frequent label of the training rows."""
        train = self.dataset("train").examples
        return metrics.majority(self.name, train, self.dataset(split).examples, self._labels)

    def confusion(self, split: str, scores: Scores) -> dict[str, Any] | None:
        """Of the tasks whose examples all have the same labels to choose from."""
        if self.name in ("record", "wsc"):
            return None
        examples = self.dataset(split).examples
        answers = metrics.answers_of(self.name, examples, self._labels, scores, self.cfg.cloze)
        gold = [str(example.label) for example in examples]
        counts = confusion_matrix(gold, answers, labels=list(self._labels)).tolist()
        return {"labels": list(self._labels), "counts": counts}

    def write_predictions(self, split: str, scores: Scores, folder: Path) -> list[Path]:
        """A file as SuperGLUE's leaderboard takes it."""
        examples = self.dataset(split).examples
        answers = metrics.answers_of(self.name, examples, self._labels, scores, self.cfg.cloze)
        source = file_of(self.cfg.data_dir, self._file(split))
        return [write_submission(self.name, examples, answers, source, folder)]

    @property
    def _labels(self) -> tuple[str, ...]:
        return LABELS[self.name]


def _head(cfg: SuperGLUETaskConfig) -> HeadConfig | None:
    kind = head_kind(cfg)
    if kind is None:
        return None
    if kind == "pooled":
        return HeadConfig(kind, pool=cfg.pool, num_classes=num_classes(cfg), dropout=cfg.dropout)
    penalty = cfg.length_penalty if kind == "multi_token" else 0.0
    return HeadConfig(kind, cfg.log_softmax, penalty)
