"""MGSKD: structure of tokens, random spans and samples."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill import geometry
from glmkd_nemo.distill.method import Batch, ModelShape, Part, StepContext
from glmkd_nemo.distill.methods.mgskd import MGSKD, MGSKDConfig
from glmkd_nemo.distill.taps import Tap

STUDENT, TEACHER = ModelShape(2, 8, 2), ModelShape(4, 12, 2)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def parts_of(
    context: StepContext, teacher: ModelShape = TEACHER, **options: Any
) -> dict[str, Part]:
    config = MGSKDConfig(**{"relation_heads": 4, "sample_from": 1, **options})
    return {p.name: p for p in MGSKD(config, STUDENT, teacher).parts(context)}


def cut(x: Tensor, heads: int) -> Tensor:
    """``[l, h] -> [heads, l, h / heads]``."""
    return x.reshape(len(x), heads, -1).transpose(0, 1)


def products(x: Tensor, heads: int) -> Tensor:
    """``[heads, l, l]`` of one sample, all of it real."""
    x = cut(x, heads)
    return x @ x.transpose(1, 2) / x.shape[-1] ** 0.5


def angle(x: Tensor, i: int, j: int, k: int) -> Tensor:
    return F.cosine_similarity(x[j] - x[i], x[k] - x[i], dim=0)


def triplets(t: Tensor, heads: int, anchors: int, neighbours: int) -> list[tuple[int, int, int]]:
    """Of one sample: around the most attended, of the closest of each, none twice in a triplet."""
    attention = products(t, heads).softmax(-1).sum(0)
    found = []
    for i in attention.sum(0).argsort(descending=True)[:anchors].tolist():
        row = attention[i].clone()
        row[i] = -1.0  # never its own neighbour
        near = row.argsort(descending=True)[: min(neighbours, len(t) - 1)].tolist()
        found += [(i, j, k) for j in near for k in near if j != k]
    return found


@pytest.mark.parametrize(("anchors", "neighbours"), [(2, 2), (3, 4), (20, 20)])
def test_token_structure(anchors: int, neighbours: int):
    s, t, heads = draw(2, 5, 4, seed=0).requires_grad_(), draw(2, 5, 6, seed=1), 2
    pairs, angles, count = s.sum() * 0.0, s.sum() * 0.0, 0
    for b, n in enumerate((5, 3)):
        mine, its = s[b, :n], t[b, :n]
        pairs = pairs + (products(mine, heads) - products(its, heads)).square().sum()
        for triplet in triplets(its, heads, anchors, neighbours):
            angles = angles + F.smooth_l1_loss(angle(mine, *triplet), angle(its, *triplet))
            count += 1
    found = geometry.token_structure(s, t, MASK, heads, anchors, neighbours)
    expected = pairs / (heads * (25 + 9)) + angles / count
    check(found.mean(), expected, s)


def test_sample_structure_is_that_of_masked_means():
    s, t, heads = draw(3, 5, 4, seed=2).requires_grad_(), draw(3, 5, 6, seed=3), 2
    lengths = (5, 3, 4)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    mine, its = (
        cut(torch.stack([x[b, :n].mean(0) for b, n in enumerate(lengths)]), heads) for x in (s, t)
    )
    total = s.sum() * 0.0
    for h in range(heads):
        for i, j, k in [(i, j, k) for i in range(3) for j in range(3) for k in range(3)]:
            if i not in (j, k):
                total = total + F.smooth_l1_loss(angle(mine[h], i, j, k), angle(its[h], i, j, k))
    check(geometry.sample_structure(s, t, mask, heads).mean(), total / (heads * 27), s)


def check(found: Tensor, expected: Tensor, s: Tensor) -> None:
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(x, s, retain_graph=True)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_one_sample_or_one_token_gives_no_nan():
    s, t = draw(1, 5, 4, seed=4).requires_grad_(), draw(1, 5, 6, seed=5)
    mask = torch.tensor([[1, 0, 0, 0, 0]]).bool()
    total = geometry.sample_structure(s, t, mask, 2) + geometry.token_structure(
        s, t, mask, 2, anchors=2, neighbours=2
    )
    total.sum().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert geometry.sample_structure(s, t, mask, 2).item() == 0


@pytest.mark.parametrize(("length", "share"), [(48, 0.4), (7, 0.4), (2, 0.1), (9, 1.0), (1, 0.5)])
def test_spans_fill_the_sequence(length: int, share: float):
    for seed in range(20):
        lengths = geometry.random_spans(length, share, random.Random(seed))
        assert sum(lengths) == length
        assert min(lengths) >= 1
        assert len(lengths) == max(int(length * share), 1)


def test_lengths_of_spans_follow_the_draws_and_the_last_fill_up():
    class Draws(random.Random):
        def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float:
            return values.pop(0)

    values = [-1.0, 2.0, 0.1, 0.4]
    # shares of the six positions beyond one each: 1.7, 3.4, 0.2, 0.7
    assert geometry.random_spans(10, 0.4, Draws()) == [2, 4, 2, 2]


def test_span_means():
    x, lengths = draw(2, 5, 3, seed=6), [2, 1, 2]
    means, mask = geometry.span_means(x, MASK, lengths)
    expected = torch.stack([x[:, :2].mean(1), x[:, 2], x[:, 3:].mean(1)], 1)
    torch.testing.assert_close(means, expected)
    assert mask.tolist() == [[True, True, True], [True, True, False]]


def test_parts():
    parts = parts_of(StepContext(), sample_from=2, span=3.0)
    assert {name: (p.student[0], p.teacher[0], p.weight) for name, p in parts.items()} == {
        "token.0": (("hidden", 0), ("hidden", 0), 1.0),
        "span.0": (("hidden", 0), ("hidden", 0), 3.0),
        "token.1": (("hidden", 1), ("hidden", 2), 1.0),
        "span.1": (("hidden", 1), ("hidden", 2), 3.0),
        "sample.2": (("output", None), ("output", None), 4.0),
    }
    uneven = parts_of(StepContext(), ModelShape(3, 12, 2), sample_from=0, sample=1.0)
    # the reference's map drops the rest: the last state meets an inner one
    assert [p.teacher[0] for p in uneven.values()] == [("hidden", 0), ("hidden", 1), ("hidden", 2)]
    assert list(parts_of(StepContext(), sample=0.0, span=0.0)) == ["token.0"]


def test_spans_are_drawn_per_step_and_alike_in_all_layers():
    values = {}
    s, t = (Tap(draw(2, 12, width, seed=7)) for width in (8, 12))
    position_ids = torch.arange(12).expand(2, 2, 12)
    rest = [torch.zeros(2, 12)] * 3
    batch = Batch(torch.zeros(2, 12), position_ids, *rest)
    for step in range(4):
        parts = parts_of(StepContext(step=step, seed=1), sample_from=2, span_share=0.5)
        for i in range(2):
            part = parts[f"span.{i}"]
            loss = part.loss({part.student[0]: s}, {part.teacher[0]: t}, batch)
            values[step, i] = loss.mean().item()
    assert all(values[step, 0] == values[step, 1] for step in range(4))
    assert len(set(values.values())) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relation_heads": 5}, r"relation_heads 5 must divide the hidden sizes 8 .* 12"),
        ({"relation_heads": 0}, r"relation_heads 0 must divide"),
        ({"span_share": 0.0}, "span_share must be above 0"),
        ({"span_share": 1.5}, "span_share must be above 0, at most 1"),
        ({"anchors": 0}, "anchors and neighbours must be above 0"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        parts_of(StepContext(), **options)
