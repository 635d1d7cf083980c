"""Bytes that loss parts hold: logits of student and teacher, tapped tensors, what travels.

The numbers per logit were measured on the losses of this package (peak of live tensors of forward
and backward, over the size of ``[rows, V']``); ``tests/plan/test_losses.py`` measures them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.distill.objective import WeightedPart
from glmkd_nemo.distill.pipeline import tap_shape
from glmkd_nemo.distill.placement import home_of, stage_of
from glmkd_nemo.distill.row_loss import TokenLoss
from glmkd_nemo.distill.taps import TapKey
from glmkd_nemo.distill.workspace import rows_on_gpu
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.plan.activations import FP32, Tokens
from glmkd_nemo.tasks.registry import over_tokens

# bytes per logit at the peak, logits of the student (and teacher) included: (fp32, half precision)
PEAK_PER_LOGIT: dict[str, tuple[int, int]] = {
    "hard": (16, 18),
    "mse": (24, 20),
    "ce": (28, 24),
    "kl": (44, 40),
    "reverse_kl": (66, 70),
    "skewed_kl": (79, 83),
    "jsd": (104, 108),
}
_PREDICTED_TASK = 0.1  # of a task's positions, those that are predicted
_RELATIONS = 3  # fp32 [b, n, s, s] tensors of a loss on queries, keys or values
_FUSED_PER_LOGIT = {"hard": 4, "kl": 8, "reverse_kl": 8}  # of a chunk; the others need autograd
_NO_TENSOR = ("logits", "classes")


@dataclass(frozen=True)
class LossMemory:
    """Bytes of the loss parts at home on one stage, per micro-batch.

    Attributes:
        logits: peak of everything of the shape of logits.
        kept: what losses on tapped tensors keep until the backward.
        teacher_taps: the teachers' tapped tensors, until the losses are computed.
        carried: tensors of other stages, sent or received here.
    """

    logits: int = 0
    kept: int = 0
    teacher_taps: int = 0
    carried: int = 0


def predicted_share(model: Mapping[str, Any], given: float | None) -> float:
    """Share of the positions that are predicted, the most that a micro-batch may have.

    Args:
        model: the section ``model``.
        given: the user's number, which counts if set.
    """
    if given is not None:
        return given
    if task := model.get("task"):
        pooled = task.get("cloze") is False and not over_tokens(task)  # no vocabulary is predicted
        return 0.0 if pooled else _PREDICTED_TASK
    blanks = (model.get("data") or {}).get("block_infilling") or {}
    short = blanks.get("bert_prob", 1.0) + blanks.get("gap_sentence_prob", 0.0)
    if short < 1.0:
        return 1.0  # a long span may be the whole text
    ratio = max(blanks.get("bert_ratio", 0.15), blanks.get("gap_sentence_ratio", 0.15))
    return min(1.0, ratio * 4 / 3)  # blanks of three tokens come with a fourth that ends them


def of_stage(
    parts: Iterable[WeightedPart],
    terms: Mapping[str, Mapping[str, Any]],
    student: GLMConfig,
    teachers: Mapping[str, GLMConfig],
    stage: int,
    tokens: Tokens,
    predicted: float,
) -> LossMemory:
    """Adds up the parts of a stage.

    Args:
        parts: of all terms, those of every stage; none: the plain objective of pre-training.
        terms: the section ``distill.terms``.
        student, teachers: configurations.
        stage: the stage.
        tokens: the micro-batch.
        predicted: share of the positions that are predicted.
    """
    planned = list(parts)
    last = stage == len(student.split) - 1
    if not planned:
        return LossMemory(logits=_logits("hard", predicted, student, tokens) if last else 0)
    here = [part for part in planned if home_of(part, student.split) == stage]
    others = [part for part in here if not _of(part, "logits")]
    fused = [part for part in here if isinstance(part.part.loss, TokenLoss)]
    logits = sum(
        _logits(*kind_and_share(part, terms, predicted), student, tokens)
        for part in here
        if _of(part, "logits") and part not in fused
    )
    logits += fused_head(
        [kind_and_share(part, terms, predicted) for part in fused], student, tokens
    )
    if any(_of(part, "classes") for part in here):  # the rows that a cloze head reads, once
        logits += _logits("hard", predicted, student, tokens)
    return LossMemory(
        logits=logits,
        kept=sum(_kept(part, student, teachers, tokens) for part in others),
        teacher_taps=_teacher_taps(here, teachers, tokens),
        carried=_carried(planned, student, teachers, stage, tokens),
    )


def kind_and_share(
    part: WeightedPart, terms: Mapping[str, Mapping[str, Any]], predicted: float
) -> tuple[str, float]:
    """Which loss a part on logits is, and the share of the positions that it is taken at."""
    term = terms.get(part.name.split("/")[0].split("@")[0], {})
    if part.teacher is None:
        return "hard", predicted
    kind = str(term.get("loss") or "kl")
    target = term.get("mask", "target" if term.get("method") == "kd" else "none") == "target"
    share = predicted if target or term.get("mask_a") else 1.0
    return (kind if kind in PEAK_PER_LOGIT else "kl"), share


def _logits(kind: str, share: float, student: GLMConfig, tokens: Tokens) -> int:
    columns = student.padded(student.output_size) / student.tensor_model_parallel_size
    full, half = PEAK_PER_LOGIT[kind]
    return int(tokens.count * share * columns * (full if tokens.element == FP32 else half))


def fused_head(parts: Sequence[tuple[str, float]], student: GLMConfig, tokens: Tokens) -> int:
    """Of parts that go through the fused head: chunks, which share their memory, and for each set
    of positions the gradient of the head, until the backward takes it."""
    columns = student.padded(student.output_size) // student.tensor_model_parallel_size
    chunks = [0]
    for kind, share in parts:
        rows = math.ceil(tokens.count * share)
        held, own = student.fused_head_rows or rows_on_gpu(rows), _FUSED_PER_LOGIT.get(kind)
        chunk = min(rows, int(held / (own / FP32 if own else 1.5)))  # see Chunks.buffers
        chunks.append(chunk * columns * (own or PEAK_PER_LOGIT[kind][0]))
    gradient = columns * student.word_embedding_size * (FP32 + tokens.element % FP32)
    return max(chunks) + len({share for _, share in parts}) * gradient


def _of(part: WeightedPart, name: str) -> bool:
    return any(key[0] == name for key in part.part.student)


def _elements(key: TapKey, config: GLMConfig, tokens: Tokens) -> int:
    if key[0] in _NO_TENSOR:
        return 0
    return math.prod(tap_shape(key, config, tokens.batch, tokens.length))


def _bytes(key: TapKey, config: GLMConfig, tokens: Tokens) -> int:
    return tokens.of(config).element * _elements(key, config, tokens)


def _kept(
    part: WeightedPart, student: GLMConfig, teachers: Mapping[str, GLMConfig], tokens: Tokens
) -> int:
    """One fp32 tensor of the compared size, or relations between positions."""
    keys = part.part.student
    if any(key[0] in ("query", "key", "value") for key in keys):
        heads = student.num_attention_heads / student.tensor_model_parallel_size
        return int(_RELATIONS * FP32 * tokens.batch * heads * tokens.length**2)
    mine = sum(_elements(key, student, tokens) for key in keys)
    theirs = 0
    if part.teacher is not None:
        config = teachers[part.teacher]
        theirs = sum(_elements(key, config, tokens) for key in part.part.teacher)
    return FP32 * max(mine, theirs)


def _teacher_taps(
    parts: Iterable[WeightedPart], teachers: Mapping[str, GLMConfig], tokens: Tokens
) -> int:
    keys = {(part.teacher, key) for part in parts if part.teacher for key in part.part.teacher}
    return sum(_bytes(key, teachers[name], tokens) for name, key in keys)


def _carried(
    parts: Iterable[WeightedPart],
    student: GLMConfig,
    teachers: Mapping[str, GLMConfig],
    stage: int,
    tokens: Tokens,
) -> int:
    """Tapped tensors that leave this stage, or come to it."""
    routes: set[tuple[str | None, int, int, TapKey]] = set()
    for part in parts:
        home = home_of(part, student.split)
        routes |= {(None, stage_of(key, student.split), home, key) for key in part.part.student}
        if part.teacher is not None:
            split = teachers[part.teacher].split
            routes |= {(part.teacher, stage_of(k, split), home, k) for k in part.part.teacher}
    travelling = (
        (n, k) for n, source, home, k in routes if source != home and stage in (source, home)
    )
    return sum(
        _bytes(key, student if name is None else teachers[name], tokens) for name, key in travelling
    )


def rows_of_head(
    parts: Iterable[WeightedPart], terms: Mapping[str, Mapping[str, Any]], predicted: float
) -> float:
    """Share of the positions that go through the prediction head (each counted once)."""
    planned = list(parts)
    shares = [kind_and_share(part, terms, predicted)[1] for part in planned if _of(part, "logits")]
    answers = any(_of(part, "classes") for part in planned)
    return max(shares, default=predicted if answers or not planned else 0.0)
