"""A run with RL-KD's agent, which remembers its last decision, goes on as if never stopped."""

from __future__ import annotations

from typing import Any

import pytest

from tests.distillation.aggregator_runs import LAYOUTS
from tests.launch import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Losses by layout and step."""
    args = {"root": str(tmp_path_factory.mktemp("aggregators"))}
    found: dict[str, Any] = run_ranks("tests.distillation.aggregator_runs:rl_kd", 2, args, 380)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resumed_run_equals_an_uninterrupted_one(runs: dict[str, Any], layout: str):
    whole, resumed = runs[layout]["whole"], runs[layout]["resumed"]
    assert whole["parts"][3]["aggregator/policy"] != 0
    assert sorted(resumed["parts"]) == [3, 4, 5]
    assert all(resumed["parts"][step] == whole["parts"][step] for step in (3, 4, 5))
    assert resumed["weights"] == whole["weights"]


def test_at_another_layout_the_memory_is_left_out(runs: dict[str, Any]):
    found, whole = runs["moved"]["parts"], runs["dp2"]["whole"]["parts"]
    assert sorted(found) == [3, 4, 5]
    assert found[3]["hard/hard"] == pytest.approx(whole[3]["hard/hard"], rel=1e-5)
    assert found[3]["aggregator/policy"] != pytest.approx(whole[3]["aggregator/policy"], rel=1e-3)
