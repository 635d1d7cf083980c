"""CKD: relations between the tokens of a layer, and between the layers at a token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill import contextual
from glmkd_nemo.distill.method import Batch, ModelShape, Part, StepContext
from glmkd_nemo.distill.methods.ckd import CKD, CKDConfig
from glmkd_nemo.distill.taps import Tap

MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()
OUTPUT = ("output", None)


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def parts_of(**options: Any) -> dict[str, Part]:
    method = CKD(CKDConfig(**options), ModelShape(2, 8, 2), ModelShape(5, 12, 2))
    return {part.name: part for part in method.parts(StepContext())}


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b, dim=0)


def divergence(s: Tensor, t: Tensor, i: int, others: list[int]) -> Tensor:
    """KL of the softmaxed cosines of vector ``i`` with others."""
    p, q = (torch.stack([cosine(x[i], x[j]) for j in others]).softmax(0) for x in (t, s))
    return (p * (p / q).log()).sum()


def angle(x: Tensor, i: int, j: int, k: int) -> Tensor:
    """Cosine at ``i`` between ``j`` and ``k``; 0 if one of them is ``i`` itself."""
    return cosine(x[j] - x[i], x[k] - x[i]) if i not in (j, k) else x.sum() * 0.0


def test_word_distance():
    s, t = draw(2, 5, 4, seed=0).requires_grad_(), draw(2, 5, 6, seed=1)
    total = sum(
        divergence(s[b], t[b], i, [j for j in range(n) if j != i])
        for b, n in enumerate((4, 2))
        for i in range(n)
    )
    found = contextual.word_distance(s, t, MASK)
    check(found.mean(), total / (16 + 4), s)


def test_word_angle_repeats_the_ends_and_sees_masked_neighbours():
    s, t = draw(2, 5, 4, seed=2).requires_grad_(), draw(2, 5, 6, seed=3)
    total = s.sum() * 0.0
    for b, n in enumerate((4, 2)):
        for i in range(n):
            near = [min(max(j, 0), 4) for j in (i - 1, i, i + 1)]
            for j in near:
                for k in near:
                    total = total + (angle(s[b], i, j, k) - angle(t[b], i, j, k)) ** 2
    found = contextual.word_angle(s, t, MASK, window=3)
    check(found.mean(), total / (9 * 6), s)


def test_layer_distance():
    s, t = draw(2, 5, 3, 4, seed=4).requires_grad_(), draw(2, 5, 3, 6, seed=5)
    total = sum(
        divergence(s[b, i], t[b, i], layer, [x for x in range(3) if x != layer])
        for b, n in enumerate((4, 2))
        for i in range(n)
        for layer in range(3)
    )
    check(contextual.layer_distance(s, t, MASK).mean(), total / (9 * 6), s)


def test_layer_angle():
    s, t = draw(2, 5, 3, 4, seed=6).requires_grad_(), draw(2, 5, 3, 6, seed=7)
    total = sum(
        (angle(s[b, i], *layers) - angle(t[b, i], *layers)) ** 2
        for b, n in enumerate((4, 2))
        for i in range(n)
        for layers in [(x, y, z) for x in range(3) for y in range(3) for z in range(3)]
    )
    check(contextual.layer_angle(s, t, MASK).mean(), total / (27 * 6), s)


def check(found: Tensor, expected: Tensor, s: Tensor) -> None:
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(x, s, retain_graph=True)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_token_without_another_gives_nothing_and_no_nan():
    s, t = draw(2, 5, 4, seed=8).requires_grad_(), draw(2, 5, 6, seed=9)
    alone = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()
    found = contextual.word_distance(s, t, alone)
    assert found[0] == 0
    assert found[1] > 0
    found.mean().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_parts_and_their_weights():
    parts = parts_of(word_angle=6.0)
    keys = {name: (part.student, part.teacher) for name, part in parts.items()}
    mine, its = (("hidden", 0), ("hidden", 1), OUTPUT), (("hidden", 0), ("hidden", 3), OUTPUT)
    expected = {"layer_distance": (mine, its), "layer_angle": (mine, its)}
    for i, (s, t) in enumerate(zip(mine, its, strict=True)):
        expected |= {f"word_distance.{i}": ((s,), (t,)), f"word_angle.{i}": ((s,), (t,))}
    assert keys == expected
    # the weight of a word relation is that of its mean over layers
    assert {parts[f"word_angle.{i}"].weight for i in range(3)} == {2.0}
    assert parts["layer_angle"].weight == 10.0


def test_parts_read_the_taps_of_their_layers():
    parts, taps = parts_of(window=3), ({}, {})
    for model, (layers, width) in enumerate([((0, 1), 8), ((0, 3), 12)]):
        for i, key in enumerate([*(("hidden", layer) for layer in layers), OUTPUT]):
            taps[model][key] = Tap(draw(2, 5, width, seed=10 * model + i))
    position_ids = torch.stack([torch.arange(5) * MASK, torch.zeros_like(MASK)], 1).long()
    batch = Batch(*[torch.zeros(2, 5)] * 5)
    batch = Batch(batch.input_ids, position_ids, batch.labels, batch.labels, batch.labels)
    s, t = ([tap.value for tap in values.values()] for values in taps)
    found = parts["word_angle.1"].loss(*taps, batch)
    torch.testing.assert_close(found, contextual.word_angle(s[1], t[1], MASK, 3))
    found = parts["layer_distance"].loss(*taps, batch)
    expected = contextual.layer_distance(torch.stack(s, 2), torch.stack(t, 2), MASK)
    torch.testing.assert_close(found, expected)


def test_a_relation_without_weight_is_left_out():
    parts = parts_of(layer_distance=0.0, layer_angle=0.0, word_distance=0.0)
    assert list(parts) == ["word_angle.0", "word_angle.1", "word_angle.2"]


@pytest.mark.parametrize("window", [0, 4, -3])
def test_windows_without_a_middle(window: int):
    with pytest.raises(ValueError, match=rf"window {window} must be odd"):
        parts_of(window=window)
