"""The multi-process helper itself: results, and failing fast."""

import time

import pytest

from tests.launch import RankFailed, run_ranks


def test_result_of_rank_zero_over_two_ranks():
    assert run_ranks("tests.engine.ranks:add_up", 2, {"value": 3}, timeout=60) == [7.0, 1.0]


def test_a_dying_rank_stops_the_others_at_once():
    start = time.monotonic()
    with pytest.raises(RankFailed, match="this rank fails on purpose"):
        run_ranks("tests.engine.ranks:die_on_rank", 2, {"rank": 1}, timeout=100)
    assert time.monotonic() - start < 60
