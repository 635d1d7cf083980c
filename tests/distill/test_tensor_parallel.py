"""Losses and gradients over two tensor-parallel ranks equal those of whole tensors."""

from __future__ import annotations

import pytest

from tests.distill.loss_cases import grid

KINDS = sorted({case.kind for case in grid()})

pytestmark = pytest.mark.timeout(500)


@pytest.mark.parametrize("layout", ["tp", "sp"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_on_logits(on_two_ranks: dict[str, list[str]], kind: str, layout: str):
    """Vocabularies of which the second rank has as many columns, fewer, or none."""
    assert on_two_ranks[f"{kind}-{layout}"] == []


@pytest.mark.parametrize(
    "check", ["losses_by_head", "sums_and_gradients", "gathered_tap", "far_between_ranks"]
)
def test_building_blocks(on_two_ranks: dict[str, list[str]], check: str):
    assert on_two_ranks[check] == []


@pytest.mark.parametrize("layout", ["tp", "sp"])
def test_fused_head(on_two_ranks: dict[str, list[str]], layout: str):
    assert on_two_ranks[f"fused-{layout}"] == []
