"""Recorded batches of tasks: padded answers stay out of the soft loss, unlike in the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.compare import tensor_error
from glmkd_nemo.replay.run import run_case
from tests.distill.single import one_rank

CASE = Path(__file__).resolve().parent / "distill_ft_multi" / "kd_readme_lossmask_3choices"


def soft(student: Tensor, teacher: Tensor, real: Tensor, temperature: float) -> float:
    """Mean over examples of the soft cross-entropy, each over its own answers only."""
    rows = []
    for s, t, mask in zip(student, teacher, real.bool(), strict=True):
        s, t = s[mask] / temperature, t[mask] / temperature
        rows.append(-(t.softmax(0) * s.log_softmax(0)).sum())
    return float(torch.stack(rows).mean())


def test_padded_answers_are_left_out():
    case = Case(CASE)
    assert "padded choices" in str(case.excluded)
    real, label = case.inputs["loss_mask"], case.inputs["label"]
    assert real.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 0]]
    with one_rank():
        (outcome,) = run_case(case)
    recorded = case.logits()
    for who in ("student", "t0"):
        assert tensor_error(outcome.logits[who], recorded[who]) < 1e-5
    student, teacher = recorded["student"].double(), recorded["t0"].double()
    expected = soft(student, teacher, real, 10.0)
    assert outcome.values["soft/soft"] == pytest.approx(expected, rel=1e-5)
    theirs = case.record["components"]["pre_loss/ft_soft_t0"]
    assert soft(student, teacher, torch.ones_like(real), 10.0) == pytest.approx(theirs, rel=1e-5)
    assert abs(expected - theirs) > 0.1 * theirs
    hard = F.cross_entropy(student.masked_fill(~real.bool(), -10000.0), label)
    assert outcome.values["hard/hard"] == pytest.approx(float(hard), rel=1e-5)
    assert float(hard) == pytest.approx(case.record["components"]["Train/hard_loss"], rel=1e-5)
