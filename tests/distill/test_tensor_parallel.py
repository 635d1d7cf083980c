"""Losses and gradients over two tensor-parallel ranks equal those of whole tensors."""

from __future__ import annotations

import pytest

from tests.distill.loss_cases import grid
from tests.launch import run_ranks

KINDS = sorted({case.kind for case in grid()})

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    return run_ranks("tests.distill.ranks:under_tensor_parallelism", 2, timeout=250)


@pytest.mark.parametrize("layout", ["tp", "sp"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_on_logits(found: dict[str, list[str]], kind: str, layout: str):
    """Vocabularies of which the second rank has as many columns, fewer, or none."""
    assert found[f"{kind}-{layout}"] == []


@pytest.mark.parametrize("check", ["losses_by_head", "sums_and_gradients", "gathered_tap"])
def test_building_blocks(found: dict[str, list[str]], check: str):
    assert found[check] == []
