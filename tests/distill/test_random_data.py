"""Perturbed inputs: what changes and what stays, and options that are refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from glmkd_nemo.distill.method import Batch, TaskBatch
from glmkd_nemo.distill.random_data import RandomDataConfig, perturb, seen
from glmkd_nemo.replay.flags.random_data import random_data

B, C, S, VOCAB = 2, 3, 8, 50


def batch(task: bool = True) -> Batch:
    """Two examples of three choices; the ids are all different."""
    rows, ids = B * C, torch.arange(B * C * S).view(B * C, S)
    return Batch(
        input_ids=ids,
        position_ids=torch.stack([ids, ids + 1], 1),
        attention_mask=torch.arange(rows),
        labels=ids + 2,
        loss_mask=(ids % 2).float(),
        task=TaskBatch(torch.arange(B), ids + 3, torch.ones(B, C)) if task else None,
    )


def run(given: Batch, **options: Any) -> Batch:
    return perturb(given, RandomDataConfig(**options), random.Random(3), VOCAB)


def tensors(of: Batch) -> dict[str, torch.Tensor]:
    task = {f"task.{n}": v for n, v in vars(of.task).items()} if of.task is not None else {}
    return {n: v for n, v in (vars(of) | task).items() if isinstance(v, torch.Tensor)}


def test_shuffled_ids_are_the_same_ones_across_samples():
    given = batch()
    found = run(given, how="shuffle")
    assert torch.equal(found.input_ids.flatten().sort().values, given.input_ids.flatten())
    moved = found.input_ids // S != torch.arange(B * C)[:, None]
    assert moved.float().mean() > 0.5
    assert found.input_ids.dtype == given.input_ids.dtype


def test_sampled_ids_cover_the_vocabulary():
    ids = torch.stack(
        [
            perturb(batch(), RandomDataConfig(how="sample"), random.Random(seed), VOCAB).input_ids
            for seed in range(40)
        ]
    )
    counts = ids.flatten().bincount(minlength=VOCAB)
    assert len(counts) == VOCAB
    assert counts.min() > 0
    assert counts.max() < 3 * counts.float().mean()


@pytest.mark.parametrize("how", ["shuffle", "sample"])
def test_replace_leaves_all_else(how: str):
    given = batch()
    before = {n: v.clone() for n, v in tensors(given).items()}
    found = tensors(run(given, how=how))
    assert not torch.equal(found.pop("input_ids"), given.input_ids)
    assert found.keys() == before.keys() - {"input_ids"}
    assert all(torch.equal(v, before[n]) for n, v in found.items())
    assert all(torch.equal(v, before[n]) for n, v in tensors(given).items()), "out of place"


@pytest.mark.parametrize("how", ["shuffle", "sample"])
@pytest.mark.parametrize("task", [True, False])
def test_dual_appends_the_perturbed_batch(how: str, task: bool):
    given = batch(task)
    found, alone = run(given, how=how, mode="dual"), run(given, how=how)
    expected, second = tensors(given), tensors(alone)
    assert tensors(found).keys() == expected.keys()
    for name, value in tensors(found).items():
        assert torch.equal(value, torch.cat([expected[name], second[name]])), name
    assert (found.task is None) == (not task)


def test_masks_are_those_of_the_doubled_batch():
    given = batch()
    assert given.pad_positions.shape == (B * C, S)  # computed before, kept with that batch
    assert run(given, mode="dual").pad_positions.shape == (2 * B * C, S)


def test_a_task_without_choices():
    given = Batch(**{**vars(batch()), "task": TaskBatch(torch.arange(B))})
    task = run(given, mode="dual").task
    assert task is not None
    assert task.label.tolist() == [0, 1, 0, 1]
    assert task.target_ids is None


def test_the_times_that_are_perturbed():
    given = batch()
    found = seen(given, RandomDataConfig(passes=[1, 2], extra=2), random.Random(0), VOCAB)
    assert found[0] is given
    ids = [b.input_ids for b in found]
    assert not torch.equal(ids[1], ids[0])
    assert not torch.equal(ids[2], ids[1])
    (only,) = seen(given, RandomDataConfig(mode="dual"), random.Random(0), VOCAB)
    assert only.input_ids.shape == (2 * B * C, S)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "twice"}, "mode='twice' is unknown: dual, replace"),
        ({"how": "swap"}, "how='swap' is unknown: shuffle, sample"),
        ({"passes": [1]}, r"passes has \[1\], but a micro-batch is seen 1 times \(0 to 0\): raise"),
        ({"passes": []}, "passes is empty"),
        ({"extra": -1}, "extra=-1 must not be negative"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        RandomDataConfig(**options)


def test_options_of_the_reference():
    flags = {"distill_random_data": "replace", "distill_random_data_method": "sample"}
    expected = {"mode": "replace", "how": "sample", "passes": [0], "extra": 0}
    assert random_data(flags) == expected
    again = {"distill_random_data_n": "0,1", "forward_repeat_num": "1"}
    assert random_data({**flags, **again}) == {**expected, "passes": [0, 1], "extra": 1}
    assert random_data({**flags, "distill_random_data_n": "1"}) is None, "a repeat that never comes"
    assert random_data({}) is None
