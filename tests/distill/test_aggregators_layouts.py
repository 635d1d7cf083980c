"""Aggregators give the same numbers in every parallel layout, whatever decides their weights."""

from __future__ import annotations

from typing import Any

import pytest

from tests.distill.aggregator_cases import VARIANTS, bench
from tests.distill.kit_ranks import BOTH, LAYOUTS
from tests.distill.test_kit import check_equal
from tests.launch import run_ranks

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("alone")]


@pytest.fixture(scope="module")
def launched() -> dict[str, Any]:
    """Values and gradients by layout and variant."""
    found: dict[str, Any] = {}
    for world in sorted({world for world, _, _ in LAYOUTS.values()}):
        names = [name for name, setting in LAYOUTS.items() if setting[0] == world]
        function = "tests.distill.aggregator_ranks:run"
        found |= run_ranks(function, world, {"layouts": names}, timeout=400)
    return found


@pytest.fixture(scope="module")
def one_process() -> dict[str, Any]:
    """The same of one process."""
    found = {}
    for name, aggregator in VARIANTS.items():
        with bench(aggregator) as prepared:
            found[name] = prepared.run(BOTH)
    return found


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_nothing(
    launched: dict[str, Any], one_process: dict[str, Any], name: str, layout: str
):
    if (name, layout) == ("reward_2", "dp2"):
        pytest.skip("each forward pass is rewarded by the next of its rank")
    found = launched[layout][name]
    if isinstance(found, str):
        pytest.fail(found[-2000:], pytrace=False)
    check_equal(found, one_process[name])


def test_teachers_in_waiting_times_change_nothing(launched: dict[str, Any]):
    """In stages of two tensor-parallel ranks: several teachers, and sequence parallelism."""
    assert launched["ahead"] == {"several_mean-next_step": [], "tinybert-same_step": []}


def test_the_variants_do_something(one_process: dict[str, Any]):
    losses = {name: values["loss"] for name, (values, _) in one_process.items()}
    assert len(set(losses.values())) == len(losses)
    agent = [g for n, g in one_process["reward_2"][1].items() if "aggregator.agent" in n]
    assert len(agent) == 4
    assert all(gradient.any() for gradient in agent)
