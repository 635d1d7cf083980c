"""The grid of losses that are computed densely and by shards, and the computing itself."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.distill import losses, top_n
from glmkd_nemo.distill.divergences import SoftLoss
from glmkd_nemo.distill.method import Batch
from glmkd_nemo.distill.row_loss import LOGITS, hard_tokens
from glmkd_nemo.models.logits import Logits
from tests.distill import dense

BATCH, SEQUENCE, HIDDEN, PADDED = 3, 4, 6, 8
VOCABULARIES = (8, 5, 3)  # of two ranks with 4 rows each, the second has 4, 1 and 0 real ones
# At a temperature of 0.02 a student leads by hundreds, whose exponential fp32 could not hold.
MASKS = ("all", "some", "sample_masked", "none")


@dataclass(frozen=True)
class LossCase:
    """One loss on one vocabulary and mask; ``n`` is for the losses on top tokens."""

    kind: str
    vocab: int
    mask: str
    temperature: float = 1.0
    n: int = 0

    def __str__(self) -> str:
        return f"{self.kind}-V{self.vocab}-{self.mask}-T{self.temperature:g}-n{self.n}"


@dataclass
class Found:
    """Loss ``[b]`` and the gradients of its mean by hidden states and head weight, whole."""

    value: Tensor
    hidden: Tensor
    weight: Tensor


def grid() -> list[LossCase]:
    """All cases."""
    cases = [
        LossCase(kind, vocab, mask, temperature)
        for kind, vocab, mask in product(("kl", "ce", "mse"), VOCABULARIES, MASKS)
        for temperature in ((0.02, 1.0, 10.0) if kind != "mse" else (1.0,))
    ]
    cases += [LossCase("hard", vocab, mask) for vocab, mask in product(VOCABULARIES, MASKS)]
    cases += [LossCase("every_row", vocab, "all") for vocab in VOCABULARIES]
    for kind, vocab, mask in product(("kl", "mse"), VOCABULARIES, MASKS):
        for n in sorted({1, 2, vocab - 1, vocab}):
            cases.append(LossCase(f"top_{kind}", vocab, mask, 3.0, n))
            cases.append(LossCase(f"min_{kind}", vocab, mask, 3.0, n))
    for vocab, mask in product(VOCABULARIES, MASKS):
        cases += [LossCase("hinge", vocab, mask, 1.0, n) for n in sorted({1, 2, vocab - 1, vocab})]
    return cases


@dataclass(frozen=True)
class Inputs:
    """Whole: hidden states ``[s, b, h]`` and heads ``[V, h]``, mask and labels ``[b, s]``."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    mask: Tensor
    labels: Tensor


def inputs(case: LossCase) -> Inputs:
    """Random, the same on every rank; logits of a few units."""
    g = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    if case.mask in ("all", "none"):
        mask = torch.full_like(mask, case.mask == "all")
    if case.mask == "sample_masked":
        mask[1] = False
    labels = torch.randint(case.vocab, (BATCH, SEQUENCE), generator=g)
    return Inputs(
        normal(SEQUENCE, BATCH, HIDDEN),
        normal(case.vocab, HIDDEN),
        normal(SEQUENCE, BATCH, HIDDEN),
        normal(case.vocab, HIDDEN),
        mask,
        labels,
    )


def whole(case: LossCase) -> Found:
    """The plain computation."""
    x = inputs(case)
    hidden, weight = x.hidden.clone().requires_grad_(), x.weight.clone().requires_grad_()
    s = (hidden @ weight.T).transpose(0, 1)
    t = (x.teacher_hidden @ x.teacher_weight.T).transpose(0, 1)
    kind, mask, temperature, n = case.kind, x.mask, case.temperature, case.n
    if kind in ("hard", "every_row"):
        value = dense.hard(s, x.labels, mask)
    elif kind == "hinge":
        value = dense.hinge(s, t, mask, n)
    elif kind.startswith("top_"):
        value = dense.top(kind[4:], s, t, mask, n, temperature)
    else:
        t = dense.least_below_top(t, n) if kind.startswith("min_") else t
        value = getattr(dense, kind.removeprefix("min_"))(s, t, mask, temperature)
    return _backward(value, hidden, weight)


def sharded(case: LossCase, sequence_parallel: bool) -> Found:
    """The project's computation on the ranks that there are, gathered. Collective."""
    x = inputs(case)
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    hidden = (x.hidden.chunk(ranks)[rank] if sequence_parallel else x.hidden).clone()
    weight = padded(x.weight).chunk(ranks)[rank].clone()
    found = _backward(
        ours(case, x, hidden.requires_grad_(), weight.requires_grad_(), sequence_parallel),
        hidden,
        weight,
    )
    grad = _gather(found.hidden)
    same = [found.value, *([] if sequence_parallel else [found.hidden])]
    assert all(torch.equal(y, _gather(y)[0]) for y in same), "ranks differ"
    return Found(
        found.value,
        torch.cat(grad) if sequence_parallel else grad[0],
        torch.cat(_gather(found.weight)),
    )


def ours(case: LossCase, x: Inputs, hidden: Tensor, weight: Tensor, sp: bool) -> Tensor:
    """``[b]`` by `glmkd_nemo`."""
    student, teacher = handles(case, x, hidden, weight, sp)
    kind, mask, temperature = case.kind, x.mask, case.temperature
    if kind == "every_row":
        return losses.cross_entropy(student.all(), x.labels, student.columns.start).mean(1)
    if kind == "hard":
        return hard_label(student, x.labels, mask)
    if kind.startswith("top_") or kind == "hinge":
        of_top = SoftLoss("mse" if kind == "top_mse" else "kl", temperature)
        pair = top_n.top_n(
            of_top.of_whole,
            student.rows(mask),
            teacher.rows(mask),
            mask,
            case.n,
            student.columns.start,
        )
        return pair[1 if kind == "hinge" else 0]
    if kind.startswith("min_"):
        flat = top_n.flattened_below_top(teacher.rows(mask), case.n)
        return losses.prediction_of_rows(
            kind[4:], student.rows(mask), flat, mask, case.vocab, temperature
        )
    return losses.prediction(kind, student, teacher, mask, temperature)


def hard_label(student: Logits, labels: Tensor, mask: Tensor) -> Tensor:
    """``[b]`` by the loss of the term ``hard``."""
    ids = torch.zeros_like(labels)
    batch = Batch(ids, ids, ids[:, 0], labels, mask)
    return hard_tokens()({LOGITS: student}, {}, batch)


def handles(
    case: LossCase, x: Inputs, hidden: Tensor, weight: Tensor, sp: bool
) -> tuple[Logits, Logits]:
    """Prediction heads of student and teacher on the ranks that there are."""
    ranks, rank = student_place()
    teacher_hidden = x.teacher_hidden.chunk(ranks)[rank] if sp else x.teacher_hidden
    teacher_weight = padded(x.teacher_weight).chunk(ranks)[rank]
    student = Logits(hidden, weight, case.vocab, sp)
    return student, Logits(teacher_hidden, teacher_weight, case.vocab, sp)


def student_place() -> tuple[int, int]:
    """Tensor-parallel ranks, and which one this is."""
    return (
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_tensor_model_parallel_rank(),
    )


def _backward(value: Tensor, hidden: Tensor, weight: Tensor) -> Found:
    assert value.shape == (BATCH,)
    value.mean().backward()
    grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in (hidden, weight)]
    return Found(value.detach(), *grads)


def padded(weight: Tensor) -> Tensor:
    """With padding rows that would show in any softmax, were they let in."""
    return torch.cat([weight, weight.new_full((PADDED - len(weight), HIDDEN), 50.0)])


def _gather(x: Tensor) -> list[Tensor]:
    group = parallel_state.get_tensor_model_parallel_group()
    shards = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(shards, x.contiguous(), group=group)
    return shards


def compare(case: LossCase, found: Found) -> list[str]:
    """What is off by more than 1e-10, as text."""
    expected = whole(case)
    rows = []
    for name in ("value", "hidden", "weight"):
        x, y = getattr(found, name), getattr(expected, name)
        if name == "weight":
            if bool(x[case.vocab :].any()):
                rows.append(f"{case}: padding rows of the head have a gradient")
            x = x[: case.vocab]
        error = float((x - y).abs().max()) / max(float(y.abs().max()), 1.0)
        if not error <= 1e-10:
            rows.append(f"{case}: {name} is off by {error:.1e}")
    return rows
