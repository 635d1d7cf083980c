"""Losses computed in pieces: as the plain formulas, whatever the pieces, and never whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glmkd_nemo.distill import chunks, contextual, geometry
from glmkd_nemo.distill.angles import AllPairs, Chosen, SmoothL1, SquaredError, Windows, angle_error
from glmkd_nemo.distill.contrastive import cos_nce
from glmkd_nemo.distill.relations import relation_error, relation_kl, scores_kl

pytestmark = pytest.mark.usefixtures("alone")
SIZES = (1, 15, 160)  # of four matrices of 49: pieces of one row, of two (of 7), of three matrices
MASK = torch.tensor([[1, 1, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0]] * 2).bool()
CENTRE = torch.tensor([[0, 3, 3], [6, 5, 0], [1, 2, 3], [4, 4, 4]])
NEAR = torch.tensor([[1, 2], [0, 3], [4, 6]]).repeat(4, 1, 1)
COUNTED = torch.tensor([[True, True], [True, False], [True, True]]).repeat(4, 1, 1)
WEIGHT = torch.arange(20, dtype=torch.float64).view(4, 5) / 7
Loss = Callable[[Tensor, Tensor], Tensor]


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pair(width: int = 3) -> tuple[Tensor, Tensor]:
    return draw(4, 7, width, seed=0).requires_grad_(), draw(
        4, 7, width + 1, seed=1
    ).requires_grad_()


def divergence(s: Tensor, t: Tensor) -> Tensor:
    """``[n, ..., c]`` scores: by row of ``n``."""
    terms = F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="none", log_target=True)
    return terms.flatten(1).sum(1)


def products(x: Tensor, scale: float) -> Tensor:
    return scale * torch.einsum("nid,njd->nij", x, x)


def plain_kl_of_others(s: Tensor, t: Tensor) -> Tensor:
    found = []
    for i in range(4):
        real = MASK[i].nonzero()[:, 0]
        total = s[i].sum() * 0.0 + t[i].sum() * 0.0
        for a in real if len(real) > 1 else []:
            others = real[real != a]
            rows = [scale * (x[i, a] @ x[i, others].T)[None] for x, scale in ((s, 2.0), (t, 3.0))]
            total = total + divergence(*rows)[0]
        found.append(total)
    return torch.stack(found)


def cosines(x: Tensor, centre: Tensor, near: Tensor) -> Tensor:
    """``[n, r, k, k]`` by indices ``[n, r]`` and ``[n, r, k]``."""
    rows = torch.arange(len(x))
    d = F.normalize(x[rows[:, None, None], near] - x[rows[:, None], centre].unsqueeze(2), dim=-1)
    return d @ d.mT


def plain_windows(s: Tensor, t: Tensor) -> Tensor:
    near = torch.arange(5)[:, None] + torch.arange(3)
    index = (torch.arange(1, 6).expand(4, -1), near.expand(4, -1, -1))
    return ((cosines(s, *index) - cosines(t, *index)).square().sum((2, 3)) * WEIGHT).sum(1)


def plain_pairs(s: Tensor, t: Tensor) -> Tensor:
    index = (torch.arange(7).expand(4, -1), torch.arange(7).expand(4, 7, -1))
    return (cosines(s, *index) - cosines(t, *index)).square().sum((1, 2, 3))


def plain_chosen(s: Tensor, t: Tensor) -> Tensor:
    x, y = cosines(s, CENTRE, NEAR), cosines(t, CENTRE, NEAR)
    both = COUNTED.unsqueeze(-1) & COUNTED.unsqueeze(-2) & ~torch.eye(2).bool()
    return (F.smooth_l1_loss(x, y, reduction="none") * both).sum((1, 2, 3))


def angle(stars: Any, error: Any, s: Tensor, t: Tensor) -> Tensor:
    return angle_error(s, t, stars, error)[0]


EQUAL: dict[str, tuple[Loss, Loss]] = {
    "kl": (
        lambda s, t: relation_kl(s, t, (0.5, 0.7)),
        lambda s, t: divergence(products(s, 0.5), products(t, 0.7)),
    ),
    "kl of others": (lambda s, t: relation_kl(s, t, (2.0, 3.0), MASK), plain_kl_of_others),
    "error": (
        lambda s, t: relation_error(s, t, (0.5, 0.7)),
        lambda s, t: (products(s, 0.5) - products(t, 0.7)).square().sum((1, 2)),
    ),
    "windows": (partial(angle, Windows(1), SquaredError(WEIGHT)), plain_windows),
    "pairs": (partial(angle, AllPairs(), SquaredError(torch.ones(4, 7))), plain_pairs),
    "chosen": (partial(angle, Chosen(CENTRE, NEAR), SmoothL1(COUNTED)), plain_chosen),
    "scores": (
        lambda s, t: scores_kl(s.unflatten(1, (7, 1)), t[..., :-1].unflatten(1, (7, 1))),
        lambda s, t: divergence(s, t[..., :-1]),
    ),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EQUAL)
def test_as_the_plain_formula(name: str, size: int, monkeypatch: pytest.MonkeyPatch):
    """In value, and in the gradients of student and teacher, weighted by sample."""
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", size)
    s, t = pair()
    ours, plain = (loss(s, t) for loss in EQUAL[name])
    torch.testing.assert_close(ours, plain)
    factor = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    for wanted in ((s, t), (s,), (t,)):
        found, expected = (
            torch.autograd.grad(x, wanted, factor, retain_graph=True) for x in (ours, plain)
        )
        torch.testing.assert_close(found, expected)
    frozen = EQUAL[name][0](s, t.detach())
    (found,) = torch.autograd.grad(frozen, s, factor)
    torch.testing.assert_close(found, torch.autograd.grad(plain, s, factor)[0])


def test_counts_of_chosen_angles():
    s, t = pair()
    _, count = angle_error(s, t, Chosen(CENTRE, NEAR), SmoothL1(COUNTED))
    # two triplets where both count; with one neighbour that is the centre the cosine is 0
    expected = [4 - 2 * int((NEAR[i] == CENTRE[i][:, None])[[0, 2]].any(1).sum()) for i in range(4)]
    assert count.tolist() == expected
    assert not count.requires_grad


def test_twice_differentiating_is_refused():
    s, t = pair()
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(relation_kl(s, t, (1.0, 1.0)).sum(), s, create_graph=True)


def test_vectors_that_coincide_have_no_angle_and_a_finite_gradient():
    s, t = pair()
    with torch.no_grad():
        s[0, 1] = s[0, 2]
    value = EQUAL["pairs"][0](s, t)
    torch.testing.assert_close(value, plain_pairs(s, t))
    value.sum().backward()
    assert s.grad is not None
    assert float(s.grad.abs().max()) < 100


@pytest.mark.parametrize("name", ["kl", "error", "scores"])
def test_close_pairs_keep_their_digits_in_fp32(name: str):
    """A student a hundredth from its teacher: value and gradient to 1e-3 of those in float64,
    where the terms of the sum exceed it hundreds of times."""
    t = draw(4, 48, 8, seed=2)
    s = (t + 1e-2 * draw(4, 48, 8, seed=3)).float()
    t = t.float()
    loss = scores_kl if name == "scores" else lambda s, t: EQUAL[name][0](s, t)
    found = []
    for dtype in (torch.float32, torch.float64):
        x = s.to(dtype, copy=True).requires_grad_()
        value = loss(x, t.to(dtype)).sum()
        value.backward()
        assert x.grad is not None
        found.append((value.item(), x.grad.double()))
    (value, gradient), (exact, exact_gradient) = found
    assert value == pytest.approx(exact, rel=1e-3)
    assert float((gradient - exact_gradient).norm() / exact_gradient.norm()) < 1e-3


class Watch(TorchDispatchMode):
    """Notes the largest tensor made, how many as large as ``full``, and operations that wait."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "equal")

    def __init__(self, full: int) -> None:
        super().__init__()
        self.full, self.largest, self.many, self.waited = full, 0, 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in self.WAITING or (name == "index" and any(_is_mask(x) for x in args[1])):
            self.waited.append(name)
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self._known(args):
                size = x.untyped_storage().nbytes() // x.element_size()
                self.largest = max(self.largest, size)
                self.many += size >= self.full
        return out

    @staticmethod
    def _known(args: Any) -> set[int]:
        return {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}


def _is_mask(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.bool


B, S, H, HEADS = 2, 40, 16, 8
PADDED = torch.arange(S) < torch.tensor([[S], [30]])
SPANS = {"share": 0.4, "draw": lambda: __import__("random").Random(1)}
TRIPLETS = {"heads": HEADS, "anchors": 5, "neighbours": 4}
# loss, shape of its states, elements of the largest tensor of the plain formula
WHOLE: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], int]] = {
    "relation": (
        lambda s, t, m: relation_kl(s.view(-1, S, 2), t.view(-1, S, 2), (1.0, 1.0)),
        (B, S, H),
        B * HEADS * S * S,
    ),
    "word_distance": (contextual.word_distance, (B, S, H), B * S * S),
    "word_angle": (partial(contextual.word_angle, window=7), (B, S, H), B * S * 7 * H),
    "layer_distance": (contextual.layer_distance, (B, S, 5, H), B * S * 5 * H + 1),
    "layer_angle": (contextual.layer_angle, (B, S, 5, H), B * S * 25 * H),
    "tokens": (partial(geometry.token_structure, **TRIPLETS), (B, S, H), B * HEADS * S * S),
    "spans": (
        partial(geometry.span_structure, **TRIPLETS, **SPANS),
        (B, S, H),
        B * HEADS * 16 * 16,
    ),
    "samples": (partial(geometry.sample_structure, heads=HEADS), (B, S, H), B * S * H + 1),
    "cos_nce": (lambda s, t, m: cos_nce(s, t), (B, S, H), B * S * H + 1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_large_is_made_and_nothing_waits_for_the_device(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(chunks, "CPU_ELEMENTS", 1700)
    loss, shape, whole = WHOLE[name]
    s, t = draw(*shape, seed=4).requires_grad_(), draw(*shape, seed=5)
    with Watch(whole) as watch:
        loss(s, t, PADDED).sum().backward()
    assert watch.waited == []
    assert watch.many == 0
    # beside the pieces only states, with the ends repeated
    assert watch.largest <= max(2 * s.numel(), 2 * 1700)


def test_of_given_scores_only_the_gradient_is_made():
    s, t = draw(2, 3, 40, 40, seed=6).requires_grad_(), draw(2, 3, 40, 40, seed=7)
    with pytest.MonkeyPatch.context() as patch, Watch(s.numel()) as watch:
        patch.setattr(chunks, "CPU_ELEMENTS", 1700)
        value = scores_kl(s, t)
        assert watch.many == 1
        value.sum().backward()
    assert watch.many == 2  # times what comes from above
