"""The fused head against the same losses on logits that are multiplied out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from glmkd_nemo.distill import fused_rows
from glmkd_nemo.distill.aggregator import Weights
from glmkd_nemo.distill.combine import combined
from glmkd_nemo.distill.divergences import BEYOND_KL, SoftLoss
from glmkd_nemo.distill.fused_kl import Workspace
from glmkd_nemo.distill.fused_parts import FusedParts
from glmkd_nemo.distill.method import Batch, Part
from glmkd_nemo.distill.objective import WeightedPart
from glmkd_nemo.distill.positions import Positions
from glmkd_nemo.distill.row_loss import LOGITS, TokenLoss, hard_tokens
from glmkd_nemo.distill.top_n import flattened_below_top
from glmkd_nemo.models.logits import Logits
from tests.distill.loss_cases import (
    BATCH,
    SEQUENCE,
    VOCABULARIES,
    LossCase,
    handles,
    inputs,
    padded,
    student_place,
)

TEACHERS = ["a", "b"]


def _where(batch: Batch) -> Positions:
    return batch.positions("target")


def soft(kind: str, temperature: float = 1.0) -> TokenLoss:
    return TokenLoss(SoftLoss(kind, temperature), _where)


def _flattened(student: Logits, rows: Tensor) -> Tensor:
    return flattened_below_top(rows, 2)


SINGLE = {
    **{f"kl-T{t:g}": soft("kl", t) for t in (0.02, 1.0, 10.0)},
    **{kind: soft(kind, 3.0) for kind in ("ce", "mse", *BEYOND_KL)},
    "annealed": TokenLoss(SoftLoss("mse"), _where, change=lambda student, rows: rows * 0.3),
    "flattened": TokenLoss(SoftLoss("kl", 3.0), _where, change=_flattened),
    "hard": hard_tokens(),
}
# parts as (loss, weight, teacher)
CASES: dict[str, list[tuple[TokenLoss, float, str | None]]] = {
    **{name: [(loss, 0.7, "a" if loss.teacher else None)] for name, loss in SINGLE.items()},
    "with_labels": [(soft("kl", 10.0), 0.7, "a"), (hard_tokens(), 0.3, None)],
    "two_teachers": [
        (soft("kl", 10.0), 0.7, "a"),
        (soft("reverse_kl", 2.0), 0.4, "b"),
        (hard_tokens(), 0.3, None),
    ],
    "two_masks": [
        (soft("kl", 10.0), 0.7, "a"),
        (TokenLoss(SoftLoss("kl", 5.0), lambda batch: batch.positions("none")), 0.2, "b"),
    ],
}
WEIGHTS = {
    "plain": None,
    "numbers": Weights([0.5, 0.25], [0.0, 0.0], hard=2.0),
    "by_sample": Weights([torch.tensor([0.5, 0.0, 2.0]), 0.25], [0.0, 0.0], hard=0.1),
}


@dataclass
class Found:
    """Total, values by part, and gradients."""

    total: Tensor
    values: Mapping[str, Tensor]
    hidden: Tensor
    weight: Tensor


def wrong(sp: bool) -> list[str]:
    """What differs, as text. Collective."""
    grid = [(name, vocab, "some", "plain") for name in CASES for vocab in VOCABULARIES]
    grid += [(name, VOCABULARIES[0], mask, "plain") for name in CASES for mask in ("all", "none")]
    several = [name for name, parts in CASES.items() if len(parts) > 1]
    grid += [(name, VOCABULARIES[0], "some", w) for name in ("kl-T10", *several) for w in WEIGHTS]
    return [
        f"{name}-V{vocab}-{mask}-{weights}: {text}"
        for name, vocab, mask, weights in grid
        for text in _differences(LossCase(name, vocab, mask), weights, sp)
    ]


def far_between_ranks() -> list[str]:
    """What is wrong where a student leads by little among each rank's columns, and by far more
    than e^u can hold between the ranks'. Collective."""
    s, t = torch.tensor([0.0, 100.0]).repeat_interleave(3), torch.tensor([0.0, -30.0])
    log_q, log_p = s.log_softmax(-1), t.repeat_interleave(3).log_softmax(-1)
    _, rank = student_place()
    mine = slice(3 * rank, 3 * rank + 3)
    ours = s[mine].repeat(2, 1)
    values, factor = fused_rows.kl_(ours, t.repeat_interleave(3)[mine].repeat(2, 1), 1.0)
    gradient = (log_q.exp() - log_p.exp())[mine]
    pairs = {"value": (values, (log_p.exp() * (log_p - log_q)).sum())}
    pairs["gradient"] = (ours * factor, gradient)
    return [name for name, (x, y) in pairs.items() if not torch.allclose(x, y.expand_as(x))]


def _differences(case: LossCase, weights: str, sp: bool) -> list[str]:
    plain, fused = (_found(case, weights, sp, rows) for rows in (None, 6))
    rows = [] if plain.values.keys() == fused.values.keys() else ["other parts"]
    pairs = [("total", plain.total, fused.total), ("hidden", plain.hidden, fused.hidden)]
    pairs += [("weight", plain.weight, fused.weight)]
    pairs += [(name, value, fused.values[name]) for name, value in plain.values.items()]
    for name, x, y in pairs:
        error = float((x - y).abs().max()) / max(float(x.abs().max()), 1.0)
        if not error <= 1e-10:
            rows.append(f"{name} is off by {error:.1e}")
    return rows


def _found(case: LossCase, weights: str, sp: bool, rows: int | None) -> Found:
    """Multiplied out, or (with ``rows``) in chunks that hold so many rows."""
    x = inputs(case)
    factors, batch = WEIGHTS[weights], _batch(x.mask, x.labels)
    leaves = leaves_of(case, sp)
    student, teacher = handles(case, x, *leaves, sp)
    other = Logits(teacher._states._hidden.flip(-1), teacher._weight, case.vocab, sp)
    parts = [
        WeightedPart(f"{k}", weight, Part(f"{k}", loss, (LOGITS,), prediction=True), name)
        for k, (loss, weight, name) in enumerate(CASES[case.kind])
    ]
    taps = {"a": {LOGITS: teacher}, "b": {LOGITS: other}, None: {}}
    if rows is None:
        mine = {LOGITS: student}
        valued = [(p, p.part.loss(mine, taps[p.teacher], batch)) for p in parts]
        total = combined(valued, factors, TEACHERS)
        values = {p.name: value.detach() for p, value in valued}
    else:
        fused = FusedParts(Workspace(rows), factors, TEACHERS)
        for p in parts:
            assert fused.takes(p, {LOGITS: student}, taps[p.teacher], batch)
        total, values = fused.losses()
    assert total is not None
    (3 * total).backward()
    hidden, weight = (torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)
    return Found(total.detach(), values, hidden, weight)


def leaves_of(case: LossCase, sp: bool) -> tuple[Tensor, Tensor]:
    """This rank's hidden states and head."""
    x = inputs(case)
    ranks, rank = student_place()
    hidden = (x.hidden.chunk(ranks)[rank] if sp else x.hidden).clone()
    weight = padded(x.weight).chunk(ranks)[rank].clone()
    return hidden.requires_grad_(), weight.requires_grad_()


def _batch(mask: Tensor, labels: Tensor) -> Batch:
    ids = torch.zeros(BATCH, SEQUENCE, dtype=torch.long)
    return Batch(ids, ids, ids[:, 0], labels, mask.double())
