"""Every way in which attention is computed against one formula on whole tensors."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import (
    BlockMask,
    create_block_mask,
    create_mask,
    flex_attention,
)

from glmkd_nemo.distill.taps import record
from glmkd_nemo.models import flex
from glmkd_nemo.models import mask as masks
from glmkd_nemo.models.activation import gelu_tanh
from glmkd_nemo.models.attention import PrefixAttention
from glmkd_nemo.models.mask import AttentionMask, prefix_mask
from tests.models.tiny import config, reseed

pytestmark = pytest.mark.usefixtures("alone")
B, S, N, D = 3, 11, 4, 4
SEPS = {
    "alike": [5, 5, 5],
    "unlike": [5, 9, 2],
    "none": [0, 0, 0],
    "all": [S, S, S],
    "beyond": [S + 4, S, S + 9],
    "extremes": [0, 7, S],
}


def qkv() -> tuple[Tensor, ...]:
    """``[s, b, n, d]`` each, cut out of one tensor as Megatron-Core does."""
    g = torch.Generator().manual_seed(5)
    mixed = torch.randn(S, B, N, 3 * D, dtype=torch.float64, generator=g)
    return tuple(x.detach().requires_grad_() for x in mixed.split(D, -1))


def by_formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q, k, v))
    scores = (q @ k.mT / math.sqrt(D)).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ v).permute(2, 0, 1, 3).flatten(2)


def layer(**changes: Any) -> PrefixAttention:
    return PrefixAttention(config(**changes), layer_number=1)


def check(net: PrefixAttention, mask: Tensor, want: Any = ()) -> None:
    found_from, expected_from = qkv(), qkv()
    with record(want):
        found = net(*found_from, AttentionMask(mask, S))
    expected = by_formula(*expected_from, prefix_mask(mask, S))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view_as(found)
    for out in (found, expected):
        (out * weights).sum().backward()
    for x, y in zip(found_from, expected_from, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-11, atol=1e-11)


@pytest.fixture(params=[10**6, 4], ids=["at_once", "in_blocks"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether these short sequences count as long ones."""
    monkeypatch.setattr(masks, "LONG", request.param)
    monkeypatch.setattr(masks, "ROWS", 4)
    return request.param < S


@pytest.mark.parametrize("sep", SEPS.values(), ids=SEPS)
@pytest.mark.parametrize("recompute", [None, "selective"])
def test_untapped(sep: list[int], recompute: str | None, cut: bool):
    net = layer(activations_checkpoint_granularity=recompute).train()
    check(net, torch.tensor(sep))
    check(net, prefix_mask(torch.tensor(sep), S)[:, 0])


@pytest.mark.parametrize("sep", SEPS.values(), ids=SEPS)
@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("recompute", [None, "selective"])
def test_tapped(sep: list[int], scale: float, recompute: str | None):
    net = layer(attention_scale=scale, activations_checkpoint_granularity=recompute).train()
    for name in ("scores", "probs"):
        check(net, torch.tensor(sep), [(name, 0)])


@pytest.mark.parametrize("sep", ["alike", "unlike"])
def test_dropout_is_drawn_alike_however_long(sep: str, monkeypatch: pytest.MonkeyPatch):
    net, mask = layer(attention_dropout=0.5).train(), torch.tensor(SEPS[sep])

    def out() -> Tensor:
        reseed()
        return net(*qkv(), AttentionMask(mask, S))

    first = out()
    monkeypatch.setattr(masks, "LONG", 4)
    assert torch.equal(out(), first)
    kept = net.eval()(*qkv(), AttentionMask(mask, S))
    assert not torch.allclose(first, kept)


def test_what_a_block_leaves_out(cut: bool):
    def shapes(sep: list[int]) -> list[tuple]:
        blocks = AttentionMask(torch.tensor(sep), S).blocks(torch.float64)
        return [(*b[:3], None if b.bias is None else tuple(b.bias.shape)) for b in blocks]

    if not cut:
        assert shapes([5, 5]) == [(0, 11, 11, (1, 1, 11, 11))]
        assert shapes([5, 2]) == [(0, 11, 11, (2, 1, 11, 11))]
    else:
        after = [(5, 9, 9), (9, 11, 11)]
        assert shapes([5, 5]) == [
            (0, 5, 5, None),
            *((a, b, k, (1, 1, b - a, k)) for a, b, k in after),
        ]
        assert shapes([5, 2]) == [
            (0, 5, 5, (2, 1, 5, 5)),
            *((a, b, k, (2, 1, b - a, k)) for a, b, k in after),
        ]
    assert shapes([S, S + 3]) == [(0, 11, 11, None)]


def test_biases_are_made_once_for_all_layers():
    mask = AttentionMask(torch.tensor(SEPS["unlike"]), S)
    assert mask.blocks(torch.float32) is mask.blocks(torch.float32)
    assert mask.hidden() is mask.hidden()
    assert mask.blocks(torch.bfloat16)[0].bias.dtype == torch.bfloat16


def test_nothing_is_multiplied_out_where_nothing_is_tapped(monkeypatch: pytest.MonkeyPatch):
    net, mask = layer(), AttentionMask(torch.tensor(SEPS["unlike"]), S)
    monkeypatch.setattr(PrefixAttention, "_explicit", None)
    monkeypatch.setattr(AttentionMask, "hidden", None)
    with record([("query", 0)]):
        assert net(*qkv(), mask).shape == (S, B, N * D)
    with pytest.raises(TypeError), record([("scores", 0)]):
        net(*qkv(), mask)


@pytest.mark.parametrize("rows", [1, 3])
def test_newest_positions_attend_to_a_cache(rows: int, cut: bool):
    q, k, v = qkv()
    seen = prefix_mask(torch.tensor(SEPS["unlike"]), S)[:, :, S - rows :]
    found = layer().eval()(q[S - rows :], k, v, AttentionMask(seen, rows, cached=True))
    torch.testing.assert_close(found, by_formula(q[S - rows :], k, v, seen))


def test_next_position_may_be_seen():
    for sep in SEPS.values():
        lengths = torch.tensor(sep)
        expected = AttentionMask(prefix_mask(lengths, S), S).sees_next()
        assert torch.equal(AttentionMask(lengths, S).sees_next(), expected)


LENGTH = 5 * flex.TILE
LENGTHS = torch.tensor([0, 1, 127, 128, 129, 300, LENGTH - 1, LENGTH, LENGTH + 7])


def test_tiles_are_those_of_the_dense_mask():
    dense = prefix_mask(LENGTHS, LENGTH)[:, 0]

    def visible(b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return dense[b, row, column]

    found = flex.tiles(LENGTHS, LENGTH)
    expected = create_block_mask(visible, len(LENGTHS), None, LENGTH, LENGTH, device="cpu")
    assert found.shape == expected.shape
    kinds = ("kv", "full_kv", "q", "full_q")
    for kind in kinds:
        counts, indices = getattr(found, f"{kind}_num_blocks"), getattr(found, f"{kind}_indices")
        assert torch.equal(counts, getattr(expected, f"{kind}_num_blocks"))
        listed = torch.arange(indices.shape[-1]) < counts.unsqueeze(-1)
        assert torch.equal(indices[listed], getattr(expected, f"{kind}_indices")[listed])


def stand_in(q: Tensor, k: Tensor, v: Tensor, block_mask: BlockMask) -> Tensor:
    """What the kernel computes, from the function that it is given."""
    seen = create_mask(block_mask.mask_mod, len(q), 1, q.shape[2], k.shape[2], device="cpu")
    return (q @ k.mT / math.sqrt(D)).masked_fill(~seen, float("-inf")).softmax(-1) @ v


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "kernel", [stand_in, pytest.param(flex_attention, marks=pytest.mark.slow)], ids=["", "real"]
)
def test_the_kernel_gets_the_lengths(kernel: Any, monkeypatch: pytest.MonkeyPatch):
    """The real one, uncompiled, runs on a CPU, but forward only (and takes ten seconds)."""
    s = 2 * flex.TILE
    mask = AttentionMask(LENGTHS[:3] + 100, s)
    q, k, v = (torch.randn(s, 3, N, D, dtype=torch.float64) for _ in range(3))
    expected = layer()(q, k, v, mask)
    monkeypatch.setattr(flex, "fits", lambda *a: True)
    calls = []
    monkeypatch.setattr(flex, "compiled", lambda: calls.append(1) or kernel)
    torch.testing.assert_close(layer()(q, k, v, mask), expected)
    assert calls == [1]


def test_where_the_kernel_is_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flex, "_triton", lambda: True)

    def fits(dropout: float = 0.0, keys: int = 256, **changes: Any) -> bool:
        fields = {"is_cuda": True, "dtype": torch.bfloat16, "shape": torch.Size([2, 4, 256, 64])}
        query = SimpleNamespace(**{**fields, **changes})
        return flex.fits(query, SimpleNamespace(shape=torch.Size([2, 4, keys, 64])), dropout)

    assert fits()
    assert not fits(is_cuda=False)
    assert not fits(dropout=0.1)
    assert not fits(keys=384)
    assert not fits(dtype=torch.float64)
    for shape in ([2, 4, 200, 64], [2, 4, 256, 24]):
        assert not fits(shape=torch.Size(shape))
    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    assert not fits()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activation(dtype: torch.dtype):
    x = torch.linspace(-12, 12, 997, dtype=torch.float64)
    ours, torchs = x.to(dtype, copy=True).requires_grad_(), x.clone().requires_grad_()
    found, expected = gelu_tanh(ours), F.gelu(torchs, approximate="tanh")
    tolerance = 1e-14 if dtype == torch.float64 else 3e-7
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * 10)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad.double(), torchs.grad, rtol=0, atol=tolerance * 10)
