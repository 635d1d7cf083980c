"""Factors on a term's weight during training."""

from __future__ import annotations

import pytest

from glmkd_nemo.distill.schedules import ScheduleConfig, check, factor


def factors(config: ScheduleConfig, *progress: float) -> list[float]:
    return [factor(config, p) for p in progress]


def test_constant():
    assert factors(ScheduleConfig(), 0.0, 0.5, 0.99) == [1.0, 1.0, 1.0]


def test_linear_is_flat_outside_its_interval():
    config = ScheduleConfig("linear", begin=0.2, until=0.6, start=1.0, end=0.5)
    found = factors(config, 0.0, 0.2, 0.4, 0.6, 0.9)
    assert found == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.5])


def test_linear_may_rise():
    config = ScheduleConfig("linear", start=0.0, end=2.0)
    assert factors(config, 0.0, 0.25, 1.0) == pytest.approx([0.0, 0.5, 2.0])


def test_stages_do_not_overlap():
    first, second = ScheduleConfig("stage", until=0.5), ScheduleConfig("stage", begin=0.5)
    assert factors(first, 0.0, 0.499, 0.5, 0.9) == [1.0, 1.0, 0.0, 0.0]
    assert factors(second, 0.0, 0.499, 0.5, 0.9) == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ScheduleConfig("cosine"), "'cosine' is unknown: constant, linear, stage"),
        (ScheduleConfig("stage", begin=0.5, until=0.5), "0 <= begin < until <= 1"),
        (ScheduleConfig("linear", begin=-0.1), "0 <= begin < until <= 1"),
        (ScheduleConfig("linear", until=1.5), "0 <= begin < until <= 1"),
    ],
)
def test_impossible_schedules_are_refused(config: ScheduleConfig, message: str):
    with pytest.raises(ValueError, match=message):
        check(config)
