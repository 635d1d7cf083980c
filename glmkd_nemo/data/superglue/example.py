"""One question of a SuperGLUE task, as read from its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """A question with its answer.

    Attributes:
        guid: unique in its split: ``train-3``, ``dev-p0-q1-a2`` (MultiRC, ReCoRD), ``train-3m``
            (COPA's mirrored copy).
        text_a: passage, premise or first sentence.
        text_b: question, hypothesis or second sentence; empty where the task has none.
        label: one of the task's labels (texts); ``None``: unlabelled. ReCoRD: ``"0"`` where the
            right answer is the first candidate (training), ``"1"`` where ``meta["answers"]`` has
            all of them (evaluation).
        idx: what an official prediction is filed under: a number; MultiRC ``[passage, question,
            answer]``; ReCoRD the question (training: with passage and answer); -1 where none is.
        num_choices: answers among which this example chooses; ``None``: as many as the task has.
        meta: what else the task needs. WiC ``word``; COPA ``choice1``, ``choice2``, ``question``
            (cause, effect); MultiRC ``passage_idx``, ``question_idx``, ``answer_idx``, ``answer``;
            WSC ``span1_text``, ``span2_text``, ``span1_index``, ``span2_index`` and, where the row
            has them, ``candidates`` (the wrong ones); ReCoRD ``passage_idx``, ``question_idx``,
            ``candidates``, ``answers``.
        where: ``FILE:LINE`` that it was read from.
    """

    guid: str
    text_a: str
    text_b: str = ""
    label: str | None = None
    idx: Any = -1
    num_choices: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    where: str = ""
