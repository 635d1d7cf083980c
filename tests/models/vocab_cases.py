"""Losses on heads with a vocabulary map: written plainly, and by shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from torch import Tensor

from glmkd_nemo.distill import losses, top_n
from glmkd_nemo.distill.divergences import BEYOND_KL, SoftLoss
from glmkd_nemo.models.logits import Logits, comparable
from glmkd_nemo.models.vocab_map import Tables, VocabMap
from tests.distill import dense, divergence_cases
from tests.distill.loss_cases import hard_label

VOCAB, SIZE, BATCH, SEQUENCE, HIDDEN, TEACHER_HIDDEN = 21, 13, 2, 4, 6, 5
WIDTH, SMALL_WIDTH = 12, 8  # of two ranks: 12 + 9 columns, and 8 + 5
SOFT = SoftLoss("kl", 3.0)


def tables(vocab: int = VOCAB, size: int = SIZE, seed: int = 4) -> Tables:
    """Keeps some tokens in mixed order; others are replaced at random."""
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(vocab, generator=g)
    row_of_id = torch.randint(size, (vocab,), generator=g)
    row_of_id[order[:size]] = torch.arange(size)
    return Tables(order[:size], row_of_id)


@dataclass(frozen=True)
class Whole:
    """Hidden states ``[s, b, h]`` and head weights, whole; mask and labels ``[b, s]``."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    other: Tensor
    mask: Tensor
    labels: Tensor

    def leaves(self) -> tuple[Tensor, ...]:
        """What gets a gradient."""
        return self.hidden, self.weight, self.teacher_hidden, self.teacher_weight, self.other


def inputs(teacher_rows: int = VOCAB) -> Whole:
    """Random, the same on every rank."""
    g = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    return Whole(
        normal(SEQUENCE, BATCH, HIDDEN),
        normal(SIZE, HIDDEN),
        normal(SEQUENCE, BATCH, TEACHER_HIDDEN),
        normal(teacher_rows, TEACHER_HIDDEN),
        normal(BATCH, SEQUENCE, HIDDEN),
        torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]]).bool(),
        torch.randint(VOCAB, (BATCH, SEQUENCE), generator=g),
    )


def _plain(x: Whole) -> tuple[Tensor, Tensor, Tensor, Tensor, Tables]:
    """Student's kept and mapped logits, teacher's at all and at the kept tokens."""
    own = tables()
    kept = (x.hidden @ x.weight.T).transpose(0, 1)
    theirs = (x.teacher_hidden @ x.teacher_weight.T).transpose(0, 1)
    if len(x.teacher_weight) == SIZE:  # a teacher with a map of its own
        theirs = theirs[..., tables(seed=5).row_of_id]
    return kept, kept[..., own.row_of_id], theirs, theirs[..., own.kept_ids], own


def _divergence(kind: str, s: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    loss = SoftLoss(kind, 3.0)
    rows = [divergence_cases.of_rows(loss, s[b][mask[b]], t[b][mask[b]]).sum() for b in (0, 1)]
    return torch.stack(rows) * 9.0 / mask.shape[1]


def plainly(name: str, x: Whole) -> Tensor:
    """``[b]`` (or ``[b, s, V]``) on whole tensors."""
    kept, mapped, theirs, at_kept, own = _plain(x)
    s, t = (kept, at_kept) if name.startswith("kept") else (mapped, theirs)
    kind = name.split("_", 1)[1]
    if kind in BEYOND_KL:
        return _divergence(kind, s, t, x.mask)
    if kind == "hard":
        labels = own.row_of_id[x.labels] if name == "kept_hard" else x.labels
        return dense.hard(s, labels, x.mask)
    if kind == "project":
        weight = x.weight if name == "kept_project" else x.weight[own.row_of_id]
        return F.linear(x.other, weight).square().sum((1, 2))
    if kind == "top":
        return dense.top("kl", s, t, x.mask, 4, 3.0)
    kind = "kl" if kind == "mapped_teacher" else kind
    return getattr(dense, kind)(s, t, x.mask, 3.0)


def by_shards(name: str, x: Whole, sp: bool, width: int) -> Tensor:
    """The same with the project's heads; ``x`` has this rank's shards."""
    student = Logits(x.hidden, x.weight, SIZE, sp, _map(tables()))
    kind, kept_only = name.split("_", 1)[1], name.startswith("kept")
    if not kept_only or name == "kept_of_mapped_kl":
        student = student.mapped(width)
    if kind == "mapped_teacher":
        teacher = Logits(x.teacher_hidden, x.teacher_weight, SIZE, sp, _map(tables(seed=5)))
    else:
        teacher = Logits(x.teacher_hidden, x.teacher_weight, VOCAB, sp)
    if kind == "hard":
        return hard_label(student, x.labels, x.mask)
    if kind == "project":
        return losses.all_sum(student.project(x.other).square().sum((1, 2)))
    if kind == "top":
        s, t = comparable(student, teacher, kept_only)
        rows = s.rows(x.mask), t.rows(x.mask)
        return top_n.top_n(SOFT.of_whole, *rows, x.mask, 4, s.columns.start)[0]
    if kind in BEYOND_KL:
        return SoftLoss(kind, 3.0).of_logits(student, teacher, x.mask, kept_only)
    if kind in ("ce", "mse"):
        return losses.prediction(kind, student, teacher, x.mask, 3.0)
    return SOFT.of_logits(student, teacher, x.mask, kept_only)


NAMES = [
    *(f"{view}_{kind}" for view in ("mapped", "kept") for kind in ("kl", "ce", "mse", "hard")),
    *(f"{view}_{kind}" for view in ("mapped", "kept") for kind in ("project", "top", *BEYOND_KL)),
    *("mapped_mapped_teacher", "kept_mapped_teacher", "kept_of_mapped_kl"),
]


def _map(own: Tables) -> VocabMap:
    found = VocabMap(len(own.kept_ids), len(own.row_of_id))
    found.fill(own)
    return found


def _shard(x: Tensor, width: int, place: int) -> Tensor:
    """This rank's rows of a padded table; padding rows hold numbers that would be seen."""
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    padding = x.new_full((width * ranks - len(x), x.shape[1]), 50.0)
    return torch.cat([x.detach(), padding]).chunk(ranks)[place].clone().requires_grad_()


def check(name: str, sp: bool, teacher_width: int, gather: Callable[[Tensor], Tensor]) -> list[str]:
    """Compares value and all gradients with the plain computation; lines that say what is off.

    Args:
        name: one of ``NAMES``.
        sp: sequence parallelism.
        teacher_width: columns of the teacher to a rank, which need not be the student's.
        gather: concatenation of shards over ranks along the first axis.
    """
    mapped_teacher = name.endswith("mapped_teacher")
    plain_name = name.replace("kept_of_mapped", "kept")
    whole = inputs(SIZE if mapped_teacher else VOCAB)
    plainly(plain_name, whole).sum().backward()
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    place = parallel_state.get_tensor_model_parallel_rank()

    def sequence(x: Tensor) -> Tensor:
        x = x.detach()
        return (x.chunk(ranks)[place] if sp else x).clone().requires_grad_()

    small, large = SMALL_WIDTH * 2 // ranks, teacher_width * 2 // ranks
    mine = Whole(
        sequence(whole.hidden),
        _shard(whole.weight, small, place),
        sequence(whole.teacher_hidden),
        _shard(whole.teacher_weight, small if mapped_teacher else large, place),
        whole.other.detach().clone().requires_grad_(),
        whole.mask,
        whole.labels,
    )
    value = by_shards(name, mine, sp, WIDTH * 2 // ranks)
    value.sum().backward()
    wrong = _off(f"{name} value", value, plainly(plain_name, whole))
    sharded = (sp, True, sp, True, False)
    labels = ("hidden", "weight", "teacher hidden", "teacher weight", "other")
    for what, shard, ours, theirs in zip(
        labels, sharded, mine.leaves(), whole.leaves(), strict=True
    ):
        if theirs.grad is None:
            continue
        found = torch.zeros_like(ours) if ours.grad is None else ours.grad
        found = gather(found) if shard else found
        if what.endswith("weight"):
            wrong += _off(f"{name} padding of {what}", found[len(theirs) :], None)
            found = found[: len(theirs)]
        wrong += _off(f"{name} gradient of {what}", found, theirs.grad)
    return wrong


def _off(what: str, x: Tensor, y: Tensor | None) -> list[str]:
    y = torch.zeros_like(x) if y is None else y
    error = float((x - y).abs().max()) if x.numel() else 0.0
    return (
        []
        if error <= 1e-10 * max(1.0, float(y.abs().max()) if y.numel() else 1.0)
        else [f"{what}: off by {error:.1e}"]
    )
