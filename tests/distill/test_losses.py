"""Losses on one process: equal to the plain computation, and their conventions in numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from glmkd_nemo.distill import losses, relations, top_n
from glmkd_nemo.distill.taps import HEADS, Tap
from glmkd_nemo.models.logits import Logits
from tests.distill import dense
from tests.distill.loss_cases import LossCase, compare, grid, hard_label, sharded

pytestmark = pytest.mark.usefixtures("alone")
V, B, S, H = 5, 2, 3, 4


def handle(seed: int, dtype: torch.dtype = torch.float64) -> Logits:
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(S, B, H, generator=g, dtype=torch.float64).to(dtype)
    return Logits(hidden, torch.randn(8, H, generator=g, dtype=torch.float64).to(dtype), V, False)


@pytest.mark.parametrize("case", grid(), ids=str)
def test_loss_and_gradient(case: LossCase):
    assert compare(case, sharded(case, sequence_parallel=False)) == []


def test_masked_rows_count_in_the_mean():
    mask = torch.tensor([[True, False, False], [True, True, True]])
    s, t = handle(0), handle(1)
    rows = losses.kl(s.all(), t.all(), 2.0)
    value = losses.prediction("kl", s, t, mask, 2.0)
    torch.testing.assert_close(value, (rows * mask).sum(1) / 3)  # 3 positions, not 1


def test_a_masked_sample_has_cross_entropy_log_v_and_kl_0():
    mask = torch.tensor([[False] * 3, [True] * 3])
    ce = losses.prediction("ce", handle(0), handle(1), mask, 7.0)
    assert float(ce[0]) == pytest.approx(math.log(V), abs=1e-6)
    assert float(losses.prediction("kl", handle(0), handle(1), mask, 7.0)[0]) == 0.0
    assert float(losses.prediction("mse", handle(0), handle(1), mask)[0]) == 0.0


def test_temperature_squared_is_in_kl_only():
    mask = torch.ones(B, S, dtype=torch.bool)
    p, q = handle(1).all() / 10, handle(0).all() / 10
    divergence = F.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="none").sum(-1).mean(1)
    entropy = -(p.softmax(-1) * p.log_softmax(-1)).sum(-1).mean(1)
    kl = losses.prediction("kl", handle(0), handle(1), mask, 10.0)
    ce = losses.prediction("ce", handle(0), handle(1), mask, 10.0)
    torch.testing.assert_close(kl, 100 * divergence)
    torch.testing.assert_close(ce, divergence + entropy)


def test_hard_label_mean_is_over_tokens_of_the_batch():
    mask = torch.tensor([[True, False, False], [True, True, True]])
    labels = torch.tensor([[1, 2, 3], [4, 0, 1]])
    s = handle(0)
    expected = F.cross_entropy(s.all()[mask], labels[mask])
    torch.testing.assert_close(hard_label(s, labels, mask).mean(), expected)
    nothing = torch.zeros_like(mask)
    assert hard_label(s, labels, nothing).tolist() == [0.0, 0.0]


def test_a_ratio_without_a_count_is_0():
    assert losses.ratio_of_means(torch.zeros(2), torch.zeros(2)).tolist() == [0.0, 0.0]
    ratio = losses.ratio_of_means(torch.tensor([2.0, 4.0]), torch.tensor([1, 3]))
    assert float(ratio.mean()) == pytest.approx(6 / 4)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'js' is unknown: kl, ce, mse"):
        losses.prediction("js", handle(0), handle(1), torch.ones(B, S, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_to_fp32_first(dtype: torch.dtype):
    mask = torch.ones(B, S, dtype=torch.bool)
    s, t = handle(0, dtype), handle(1, dtype)
    value = losses.prediction("kl", s, t, mask, 10.0)
    assert value.dtype == torch.float32
    expected = dense.kl(s.all().double(), t.all().double(), mask, 10.0)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)


def test_kl_of_close_logits_keeps_its_digits_in_fp32():
    """At T = 15 a row's divergence is a hundred thousandth of either entropy."""
    t = samples(64, 1000, seed=1)
    s = t + 0.1 * samples(64, 1000, seed=0)
    found = losses.kl(s.float(), t.float(), 15.0).double().mean()
    assert float(found) == pytest.approx(float(losses.kl(s, t, 15.0).mean()), rel=1e-5)


def test_rows_share_a_product_per_mask_tensor():
    s = handle(0)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    assert s.rows(mask) is s.rows(mask)
    torch.testing.assert_close(s.rows(mask), s.all()[mask])
    assert s.rows(~mask).shape == (2, V)
    assert s.shape == (B, S)


def test_top_n_counts_and_shares():
    assert [top_n.count(n, 40) for n in (0.25, 20.0, 1.0, 0.99)] == [10, 20, 1, 39]


def samples(*shape: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def test_mse_and_cosine_by_sample():
    s, t = samples(2, 3, 4, seed=0), samples(2, 3, 4, seed=1)
    torch.testing.assert_close(losses.mse(s, Tap(t)), (s - t).square().mean((1, 2)))
    expected = 1 - torch.stack(
        [F.cosine_similarity(a, b).mean() for a, b in zip(s, t, strict=True)]
    )
    torch.testing.assert_close(losses.cosine(s, t), expected)


def test_relation_of_different_widths():
    s, t = samples(2, 2, 3, 4, seed=0), samples(2, 2, 3, 6, seed=1)
    torch.testing.assert_close(
        relations.relation(Tap(s, HEADS), Tap(t, HEADS)), dense.relation(s, t)
    )


def test_tensors_sharded_differently_are_not_compared():
    x = samples(2, 2, 3, 4, seed=0)
    for loss in (losses.mse, losses.cosine):
        with pytest.raises(AssertionError, match="sharded differently"):
            loss(Tap(x, HEADS), Tap(x))
