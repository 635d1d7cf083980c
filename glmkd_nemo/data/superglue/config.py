"""Configuration of a SuperGLUE task (defaults: the reference's, with cloze questions on)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.data.superglue.patterns import PATTERNS

LABELS = {
    "record": ("0", "1"),
    "copa": ("0", "1"),
    "wsc": ("False", "True"),
    "wsc_generative": ("False", "True"),
    "rte": ("entailment", "not_entailment"),
    "boolq": ("false", "true"),
    "wic": ("false", "true"),
    "cb": ("entailment", "contradiction", "neutral"),
    "multirc": ("0", "1"),
}
TASKS = tuple(LABELS)
# each example brings its own answers, of several tokens each
OWN_ANSWERS = ("record", "copa", "wsc", "wsc_generative")
# ... and their number varies
VARIABLE_CHOICES = ("record", "wsc")
_OFFICIAL = {"train": "train", "dev": "val", "valid": "val", "test": "test"}


def task_name(name: str) -> str:
    """The task's name as this package spells it, from any spelling in upper and lower case.

    Raises:
        ValueError: an unknown task; says which is nearest.
    """
    known = name.lower()
    if known not in LABELS:
        hint = nearest(known, TASKS)
        raise ValueError(f"task={name!r} is not one of {', '.join(TASKS)}{hint}")
    return known


def kind_of_split(split: str) -> str:
    """``train``, ``test`` or ``unlabeled`` where the name begins so, else ``dev`` (val, dev32)."""
    return next((k for k in ("train", "test", "unlabeled") if split.startswith(k)), "dev")


def file_of(data_dir: str | Path, split: str) -> Path:
    """File of a split: the official names for train, dev (or valid) and test; else ``SPLIT.jsonl``.

    FewGLUE: ``file_of(folder, "dev32")``.
    """
    return Path(data_dir).expanduser() / f"{_OFFICIAL.get(split, split)}.jsonl"


@dataclass
class SuperGLUEConfig:
    """Which task, and how its examples become sequences.

    Attributes:
        task: one of ``TASKS``, in upper or lower case. ``wsc`` scores the candidates of a row
            against each other; ``wsc_generative`` learns to write the right one.
        data_dir: folder with the task's train.jsonl, val.jsonl and test.jsonl.
        seq_length: tokens of a sequence; longer passages are shortened.
        pattern_id: which cloze question is asked (see ``patterns.PATTERNS``).
        cloze: ask a cloze question; else classify ``[CLS] a [SEP] b``.
        multi_token: verbalizers are texts of any length behind a context of their own; ``None``: as
            the task needs (COPA, ReCoRD and WSC must, the others need not).
        fast_decode: answers of several tokens stand behind one copy of the context.
        few_shot: rows of the training file to use, drawn with ``few_shot_seed``; ``None``: all.
        few_shot_seed: of that draw.
        max_choices: answers of a *training* example of ReCoRD and WSC: the right one and at most
            ``max_choices - 1`` wrong ones.
        fixed_choices: pad (or cut) every example of ReCoRD and WSC to ``max_choices``, which
            pipeline parallelism needs; else to the most of the batch.
        block_position_encoding: number the positions of an answer 1..n (else all 1), as the model
            was pre-trained.

    Raises:
        ValueError: an unknown task or pattern, or options that do not go together.
    """

    task: str = "rte"
    data_dir: str = ""
    seq_length: int = 256
    pattern_id: int = 0
    cloze: bool = True
    multi_token: bool | None = None
    fast_decode: bool = False
    few_shot: int | None = None
    few_shot_seed: int = 42
    max_choices: int = 10
    fixed_choices: bool = False
    block_position_encoding: bool = True

    def __post_init__(self) -> None:
        self.task = task_name(self.task)
        known = len(PATTERNS[self.task])
        if not 0 <= self.pattern_id < known:
            raise ValueError(
                f"task.pattern_id={self.pattern_id}: {self.task} has patterns 0 to {known - 1}"
            )
        if self.seq_length < 8:
            raise ValueError(f"task.seq_length={self.seq_length} is too short: 8 or more")
        if self.max_choices < 2:
            raise ValueError(f"task.max_choices={self.max_choices}: 2 or more")
        if self.few_shot is not None and self.few_shot < 1:
            raise ValueError(f"task.few_shot={self.few_shot}: 1 row or more, or null for all")
        self._check_form()

    def _check_form(self) -> None:
        if self.task == "wsc_generative" and not self.cloze:
            raise ValueError("task=wsc_generative writes an answer: to classify, use task=wsc")
        if self.multi_token is False and self.task in OWN_ANSWERS and self.cloze:
            raise ValueError(
                f"task.multi_token=false: answers of {self.task} have several tokens; leave it out"
            )
        if not self.fast_decode:
            return
        if form_of(self) != "multi_token":
            raise ValueError(
                "task.fast_decode is for answers of several tokens: set task.multi_token=true, or "
                "leave it out"
            )
        if self.task == "copa" and self.pattern_id == 2:
            raise ValueError(
                "task.fast_decode: pattern 2 of copa has a context per answer; use pattern 0 or 1"
            )


def form_of(cfg: SuperGLUEConfig) -> str:
    """``pooled``, ``single_token`` or ``multi_token`` (kinds of head), or ``generative`` (none)."""
    if not cfg.cloze:
        return "pooled"
    if cfg.task == "wsc_generative":
        return "generative"
    several = cfg.task in OWN_ANSWERS or cfg.multi_token
    return "multi_token" if several else "single_token"


def head_kind(cfg: SuperGLUEConfig) -> str | None:
    """Kind of head (see :class:`~glmkd_nemo.models.heads.HeadConfig`); ``None``: over tokens."""
    form = form_of(cfg)
    return None if form == "generative" else form


def num_classes(cfg: SuperGLUEConfig) -> int:
    """Outputs of a pooled head: 1 where the choices are sequences of their own."""
    return 1 if cfg.cloze or cfg.task in ("copa", "record") else len(LABELS[cfg.task])
