"""Learning-rate schedules by NeMo's names: no step at rate 0, the last one at the minimum."""

from __future__ import annotations

import pytest
import torch

from glmkd_nemo.engine.optimizer import build_optimizer, build_scheduler

STEPS, PEAK, LOWEST = 20, 1e-3, 1e-4


def rates(sched: dict) -> list[float]:
    """The rate of each of ``STEPS`` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = build_scheduler(optimizer, sched, STEPS)["scheduler"]
    used = []
    for _ in range(STEPS):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


@pytest.mark.parametrize(
    "sched",
    [
        {"name": "CosineAnnealing", "warmup_steps": 5},
        {"name": "CosineAnnealing", "warmup_steps": 5, "constant_steps": 3},
        {"name": "CosineAnnealing"},
        {"name": "WarmupAnnealing", "warmup_ratio": 0.2},
        {"name": "PolynomialDecayAnnealing", "power": 1.0},
    ],
)
def test_first_and_last_rate(sched: dict):
    used = rates({**sched, "min_lr": LOWEST} if sched["name"] != "WarmupAnnealing" else sched)
    assert used[0] > 0
    assert max(used) <= PEAK * (1 + 1e-9)
    assert max(used) > 0.9 * PEAK
    lowest = LOWEST if sched["name"] != "WarmupAnnealing" else 0.0
    assert used[-1] == pytest.approx(lowest, abs=1e-9)


def test_no_schedule_is_a_constant_rate():
    assert build_scheduler(None, {"name": None}, STEPS) is None


@pytest.mark.parametrize(
    ("sched", "words"),
    [
        ({"name": "Cosine"}, "sched.name=Cosine is unknown: choose one of .*CosineAnnealing"),
        ({"name": "CosineAnnealing", "warmup_steps": 20}, "leave nothing of 20 steps"),
    ],
)
def test_schedules_that_cannot_be(sched: dict, words: str):
    with pytest.raises(ValueError, match=words):
        rates(sched)


def test_unknown_optimizer():
    with pytest.raises(ValueError, match=r"optim.name=sgd is unknown: .*mcore_distributed_optim"):
        build_optimizer({"name": "sgd", "lr": 1.0}, "32", [])
