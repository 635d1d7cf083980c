"""What the benches under scripts/bench count, and that they cover every method."""

import itertools

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.aggregators import NAMES as AGGREGATORS
from glmkd_nemo.distill.methods import NAMES as METHODS
from scripts.bench import parts, recipes
from scripts.bench.host_syncs import HostSyncs


def test_every_method_and_aggregator_is_measured() -> None:
    methods, aggregators = zip(*map(recipes.used, recipes.groups()), strict=True)
    assert set().union(*methods) == set(METHODS)
    assert set().union(*aggregators) == set(AGGREGATORS)


def test_waits_for_the_device_are_counted() -> None:
    x, mask = torch.ones(4, requires_grad=True), torch.tensor([True, False, True, False])
    syncs = HostSyncs(lambda: "loss")
    with syncs:
        x.sum().item()
        x[mask].sum().backward()
        mask.nonzero()
        float(x.detach().max())
    counts = {operator: times for (_, operator, _), times in syncs.found.items()}
    assert counts == {"_local_scalar_dense": 2, "index": 1, "index_put": 1, "nonzero": 1}
    assert {part for part, _, _ in syncs.found} == {"loss"}


def test_what_the_device_does_by_itself_is_not_counted() -> None:
    x, mask = torch.ones(4), torch.tensor([True, False, True, False])

    def work(x: Tensor) -> None:
        x[mask] = 0.0
        x[torch.tensor([1, 2])].repeat_interleave(2, output_size=4)
        torch.where(mask, x, 0.0).sum()

    with (syncs := HostSyncs()):
        work(x)
    assert not syncs.found


def test_a_part_is_timed_without_the_parts_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(parts.time, "perf_counter", lambda: float(next(clock)))
    told = parts.Parts()
    told.clear()
    with told.part("loss"):
        with told.part("teacher"):
            pass
        with told.part("student"):
            pass
    seconds = told.stop()
    assert (seconds["loss"], seconds["teacher"], seconds["student"]) == (3.0, 1.0, 1.0)
