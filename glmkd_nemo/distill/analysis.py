"""How similar student and teacher are inside, layer by layer, as GLMKD measures it.

Compared are the student's states, queries, keys, values and attention scores of every layer with
those of the teacher's layer at the end of its segment, and final states and logits; each directly
(where sizes are equal) and by self-relation, ``x x^T / sqrt(width)`` over positions. Queries, keys
and values are taken with all heads side by side. Differences are mean squared errors and
``T^2 KL(teacher || student)`` of softmaxes over the last axis at several temperatures T; means run
over all positions, padded ones included. Unlike in GLMKD the numbers do not depend on tensor
parallelism: heads are gathered first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.distill.layer_map import uniform_segments
from glmkd_nemo.distill.losses import at_least_fp32, prediction
from glmkd_nemo.distill.method import Batch, ModelShape
from glmkd_nemo.distill.parallel import all_gather_last
from glmkd_nemo.distill.taps import Tap, TapKey
from glmkd_nemo.models.attention import MASKED_SCORE

SCORES, OUTPUT, LOGITS = "scores", "output", "logits"
HEADED = ("query", "key", "value")
BY_LAYER = ("hidden", *HEADED, SCORES)
Pairs = Mapping[str, tuple[TapKey, TapKey]]
Measures = Iterator[tuple[str, Tensor]]


def pairs(student: ModelShape, teacher: ModelShape) -> dict[str, tuple[TapKey, TapKey]]:
    """Taps to compare, student's and teacher's, by name: ``hidden.1`` ... ``output``, ``logits``.

    Layers are counted from 1. Layer 1's hidden state stands for the embedding.

    Args:
        student, teacher: their sizes.

    Raises:
        ValueError: the teacher is shallower than the student.
    """
    ends = uniform_segments(teacher.layers, student.layers)
    found: dict[str, tuple[TapKey, TapKey]] = {}
    for kind in BY_LAYER:
        for i in range(student.layers):
            theirs = ends[i] if kind == "hidden" else ends[i + 1] - 1
            found[f"{kind}.{i + 1}"] = ((kind, i), (kind, theirs))
    for kind in (OUTPUT, LOGITS):
        found[kind] = ((kind, None), (kind, None))
    return found


def layers_read(distill: Mapping[str, Any], layers: int) -> set[int]:
    """Layers of a model that the analysis taps: all of them, if the section asks for it."""
    return set(range(layers)) if distill.get("analysis") is not None else set()


@torch.no_grad()
def similarities(
    compared: Pairs,
    student: Mapping[TapKey, Any],
    teacher: Mapping[TapKey, Any],
    batch: Batch,
    temperatures: Sequence[float],
) -> dict[str, float]:
    """All numbers of one micro-batch.

    Args:
        compared: what :func:`pairs` gave.
        student, teacher: taps under those keys.
        batch: the micro-batch.
        temperatures: T of the KL divergences.

    Returns:
        By ``name/measure``; the measures are ``mse``, ``kl_T`` and, of self-relations,
        ``self_mse``, ``self_kl_T``. What cannot be compared is left out.
    """
    found: dict[str, float] = {}
    for name, (mine, theirs) in compared.items():
        if mine[0] == LOGITS:
            measures = _of_logits(student[mine], teacher[theirs], batch, temperatures)
        else:
            measures = _of_tensors(mine[0], student[mine], teacher[theirs], temperatures)
        found |= {f"{name}/{measure}": float(value) for measure, value in measures}
    return found


def _of_tensors(kind: str, student: Tap, teacher: Tap, temperatures: Sequence[float]) -> Measures:
    s, t = _whole(kind, student), _whole(kind, teacher)
    if s.shape == t.shape:
        yield from _differences(s, t, temperatures)
    if kind != SCORES:
        for measure, value in _differences(_relation(s), _relation(t), temperatures):
            yield f"self_{measure}", value


def _differences(s: Tensor, t: Tensor, temperatures: Sequence[float]) -> Measures:
    yield "mse", (s - t).square().mean()
    for temperature in temperatures:
        log_p, log_q = ((x / temperature).log_softmax(-1) for x in (t, s))
        divergence = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        yield f"kl_{temperature:g}", divergence * temperature**2


def _of_logits(student: Any, teacher: Any, batch: Batch, temperatures: Sequence[float]) -> Measures:
    if student.vocab_size != teacher.vocab_size:
        return
    rows = (student, teacher, batch.everywhere)
    yield "mse", prediction("mse", *rows).mean()
    for temperature in temperatures:
        yield f"kl_{temperature:g}", prediction("kl", *rows, temperature).mean()


def _whole(kind: str, tap: Tap) -> Tensor:
    """``[b, s, h]`` of states, queries, keys and values; ``[b, n, s, s]`` of scores; all heads."""
    x = at_least_fp32(tap.value)
    if kind == SCORES:
        x = x.clamp(min=MASKED_SCORE)  # bf16 has it 32 lower
        return all_gather_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return all_gather_last(x.transpose(1, 2).flatten(2)) if kind in HEADED else x


def _relation(x: Tensor) -> Tensor:
    return x @ x.transpose(-1, -2) / math.sqrt(x.shape[-1])
