"""SuperGLUE's metrics (arXiv 1905.00537, section 3), as fractions between 0 and 1.

==============================  ==================================================================
BoolQ, COPA, RTE, WiC, WSC      ``accuracy``
CB                              ``accuracy`` and ``f1``, the unweighted mean of the classes' F1
MultiRC                         ``f1a``: F1 of the right answers, over all answers of all questions;
                                ``em``: questions all of whose answers are told right from wrong;
                                ``accuracy`` over answers, which SuperGLUE does not report
ReCoRD                          ``em`` and ``f1`` (of words) of the candidate that is chosen,
                                against the nearest right answer, both normalised as in SQuAD:
                                lower case, no punctuation, articles or extra white space
==============================  ==================================================================

Where SuperGLUE reports two metrics it takes their mean for its overall score: ``average``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, f1_score
from torchmetrics.functional.text.squad import squad

from glmkd_nemo.data.superglue.config import task_name
from glmkd_nemo.data.superglue.example import Example

Scores = Sequence[npt.NDArray[np.floating]]
_AVERAGED = {"cb": ("accuracy", "f1"), "multirc": ("f1a", "em"), "record": ("em", "f1")}
NO_ANSWER = ""  # where a model's scores choose nothing; no label and no candidate is empty


def main_metric(task: str) -> str:
    """The metric by which models are compared: the mean of SuperGLUE's two, or the accuracy."""
    return "average" if task_name(task) in _AVERAGED else "accuracy"


def evaluate(
    task: str,
    examples: Sequence[Example],
    labels: Sequence[str],
    scores: Scores,
    cloze: bool = True,
) -> dict[str, float]:
    """Metrics of a model's scores on labelled examples, see :func:`answers_of`.

    Raises:
        ValueError: see :func:`answers_of` and :func:`metrics_of`.
    """
    return metrics_of(task, examples, answers_of(task, examples, labels, scores, cloze))


def answers_of(
    task: str,
    examples: Sequence[Example],
    labels: Sequence[str],
    scores: Scores,
    cloze: bool = True,
) -> list[str]:
    """What a model answers: one of ``labels``, or for ReCoRD the text of a candidate.

    The highest score wins, among equals the first. Scores behind an example's own candidates (they
    only pad) are not looked at. An example without scores, or with one that is not a number, has
    no answer: ``NO_ANSWER``, which is never right.

    Args:
        task: in upper or lower case.
        examples: of the task.
        labels: of the task, in the order of the scores.
        scores: ``[c]`` per example. WSC's cloze questions: of the span, then of the wrong
            candidates; where the span is best the answer is ``True``, and so it always is where a
            row has no candidates, as in the official files. ``wsc_generative``: the last number
            is 1 if every token of the span was the most likely one, else 0.
        cloze: whether WSC was asked as a cloze question, not classified.

    Raises:
        ValueError: not one array per example, or a classifier's with another number of classes.
    """
    task = task_name(task)
    if len(scores) != len(examples):
        raise ValueError(f"{task}: {len(scores)} arrays of scores for {len(examples)} examples")
    pairs = zip(examples, scores, strict=True)
    if task == "record":
        return [_best(x, example.meta["candidates"]) for example, x in pairs]
    if task == "wsc" and cloze:
        return [_best(x, _spans(example)) for example, x in pairs]
    if task == "wsc_generative":
        return [_best(_half_and(x), ("False", "True")) for x in scores]
    for example, x in pairs:
        if len(x) not in (0, len(labels)):
            raise ValueError(f"{task}: {len(x)} scores of {example.guid}: {len(labels)} labels")
    return [_best(x, labels) for x in scores]


def metrics_of(task: str, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    """Metrics of answers as :func:`answers_of` gives them.

    ReCoRD's training form has an example per right answer, each of which counts as a question.

    Raises:
        ValueError: no examples, or one that is unlabelled.
    """
    task = task_name(task)
    if not examples:
        raise ValueError(f"{task}: no examples to evaluate")
    for example in examples:
        if not (example.meta["answers"] if task == "record" else example.label):
            raise ValueError(f"{task}: {example.guid} has no label, so it can have no metrics")
    if task == "record":
        found = _record(examples, answers)
    else:
        gold = [str(example.label) for example in examples]
        found = {"accuracy": float(accuracy_score(gold, answers))}
        if task == "cb":
            found["f1"] = _macro_f1(gold, answers)
        if task == "multirc":
            found |= _multirc(examples, gold, answers)
    if task in _AVERAGED:
        found["average"] = float(np.mean([found[name] for name in _AVERAGED[task]]))
    return found


def majority(
    task: str,
    train_examples: Sequence[Example],
    dev_examples: Sequence[Example],
    labels: Sequence[str],
) -> dict[str, float]:
    """Metrics on ``dev_examples`` of always giving the most frequent label of ``train_examples``.

    Of equally frequent labels the first is taken. COPA's labels are the places of its choices. For
    ReCoRD, whose examples share no label, it is the candidate that the passage names most often
    (the first one would be right far less often). For WSC give all training examples: its
    cloze questions train on those with the label ``True`` alone. In MultiRC wrong answers are the
    majority, and ``f1a`` is then 0; the published baseline (61.1) answers that all are right,
    which :func:`metrics_of` can tell of any constant answer.

    Raises:
        ValueError: no labelled training examples, or see :func:`metrics_of`.
    """
    task = task_name(task)
    if task == "record":
        return metrics_of(task, dev_examples, [_most_named(example) for example in dev_examples])
    count = Counter(example.label for example in train_examples if example.label is not None)
    if not count:
        raise ValueError(f"{task}: the majority needs labelled training examples")
    return metrics_of(task, dev_examples, [max(labels, key=count.__getitem__)] * len(dev_examples))


def _spans(example: Example) -> list[str]:
    """What it means for each span of a WSC question to be the best."""
    return ["True"] + ["False"] * len(example.meta.get("candidates", ()))


def _most_named(example: Example) -> str:
    """The candidate that stands most often in the passage, the first of several."""
    return max(example.meta["candidates"], key=example.text_a.count, default=NO_ANSWER)


def _half_and(x: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """``[2]``: what "not every token is right" and "every token is right" score."""
    return np.array([0.5, x[-1] if len(x) else np.nan])


def _best(x: npt.NDArray[np.floating], answers: Sequence[str]) -> str:
    x = x[: len(answers)]
    return NO_ANSWER if not len(x) or np.isnan(x).any() else answers[int(x.argmax())]


def _macro_f1(gold: list[str], answers: Sequence[str]) -> float:
    """Over classes that occur, in the data or among the answers: others have no F1."""
    seen = sorted({*gold, *answers} - {NO_ANSWER})
    return float(f1_score(gold, answers, labels=seen, average="macro", zero_division=0.0))


def _multirc(
    examples: Sequence[Example], gold: list[str], answers: Sequence[str]
) -> dict[str, float]:
    questions: dict[tuple[int, int], list[bool]] = defaultdict(list)
    for example, right, answer in zip(examples, gold, answers, strict=True):
        key = example.meta["passage_idx"], example.meta["question_idx"]
        questions[key].append(right == answer)
    f1a = f1_score([g == "1" for g in gold], [a == "1" for a in answers], zero_division=0.0)
    return {"f1a": float(f1a), "em": float(np.mean([all(q) for q in questions.values()]))}


def _record(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    pairs = list(zip(examples, answers, strict=True))
    found = squad(
        [{"id": str(i), "prediction_text": answer} for i, (_, answer) in enumerate(pairs)],
        [{"id": str(i), "answers": _in_squad(x)} for i, (x, _) in enumerate(pairs)],
    )
    return {"em": float(found["exact_match"]) / 100, "f1": float(found["f1"]) / 100}


def _in_squad(example: Example) -> dict[str, list[str] | list[int]]:
    """The right answers in SQuAD's form; where they stand in the passage does not matter."""
    texts = list(example.meta["answers"])
    return {"text": texts, "answer_start": [0] * len(texts)}
