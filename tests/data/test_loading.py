"""Sampler and loader: the same global batches whatever the layout; resume; multi-task mix."""

import multiprocessing
import subprocess
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glmkd_nemo.data.corpus import build_dataset
from glmkd_nemo.data.loader import build_loader
from glmkd_nemo.data.mixture import MultiTaskMixture, task_weights
from glmkd_nemo.data.sampler import GlobalBatchSampler
from glmkd_nemo.data.tokenizer import GLMTokenizer


def batches(total: int, consumed: int, size: int, ranks: int, **more: Any) -> list[list[int]]:
    """Global batches put together from all ranks."""
    parts = [
        list(GlobalBatchSampler(total, consumed, size, r, ranks, **more)) for r in range(ranks)
    ]
    return [list(chain(*rows)) for rows in zip(*parts, strict=True)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_global_batches_do_not_depend_on_the_ranks(ranks: int) -> None:
    assert batches(50, 0, 8, ranks) == [list(range(i, i + 8)) for i in range(0, 48, 8)]
    assert batches(50, 16, 8, ranks) == batches(50, 0, 8, 1)[2:]
    sizes = {len(row) for row in GlobalBatchSampler(50, 0, 8, 0, ranks)}
    assert sizes == {8 // ranks}


def test_end_of_the_data() -> None:
    assert len(GlobalBatchSampler(50, 0, 8, 0, 2)) == 6
    assert batches(50, 0, 8, 2, drop_last=False)[-1] == [48, 49]
    assert len(GlobalBatchSampler(50, 0, 8, 0, 2, drop_last=False)) == 7
    assert batches(50, 50, 8, 2) == batches(50, 60, 8, 2) == []
    for arguments, message in (
        ((50, 0, 9, 0, 2), "global_batch_size=9"),
        ((50, 0, 8, 2, 2), "rank 2 of 2"),
        ((50, -1, 8, 0, 2), "consumed_samples=-1"),
        ((49, 0, 8, 0, 2, False), "last global batch has 1 samples"),
    ):
        with pytest.raises(ValueError, match=message):
            GlobalBatchSampler(*arguments)


@pytest.fixture(scope="module")
def dataset(prefix: Path, tokenizer: GLMTokenizer) -> Any:
    return build_dataset({"prefixes": [str(prefix)], "split": "1"}, tokenizer, 64, "train", 64, 7)


def load(dataset: Any, consumed: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0) -> Any:
    sampler = GlobalBatchSampler(len(dataset), consumed, 8, rank, ranks)
    return list(build_loader(dataset, sampler, workers))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_batch_fields(dataset: Any) -> None:
    batch = load(dataset)[0]
    found = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    assert found == {
        "input_ids": ((8, 64), torch.int64),
        "position_ids": ((8, 2, 64), torch.int64),
        "attention_mask": ((8,), torch.int64),
        "labels": ((8, 64), torch.int64),
        "loss_mask": ((8, 64), torch.float32),
    }


def test_resume_and_workers_and_ranks_give_equal_batches(dataset: Any) -> None:
    whole = load(dataset)
    assert len(whole) == 8
    for other, expected in ((load(dataset, 24), whole[3:]), (load(dataset, workers=2), whole)):
        assert len(other) == len(expected)
        assert all(same(a, b) for a, b in zip(other, expected, strict=True))
    halves = zip(load(dataset, rank=0, ranks=2), load(dataset, rank=1, ranks=2), strict=True)
    for batch, (first, second) in zip(whole, halves, strict=True):
        assert same(batch, {k: torch.cat((first[k], second[k])) for k in first})
    with pytest.raises(ValueError, match="num_workers=-1"):
        load(dataset, workers=-1)


class Numbers:
    """Items that tell where they come from."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert 0 <= index < self.size
        return {"name": self.name, "index": index}


def test_multi_task_mixture() -> None:
    tasks = {"small": Numbers("small", 10), "large": Numbers("large", 1000)}
    mixture = MultiTaskMixture(Numbers("text", 4000), tasks, ratio=0.25, seed=1)
    assert len(mixture) == 4000
    items = [mixture[i] for i in range(4000)]
    counts = Counter(item["name"] for item in items)
    assert counts["text"] == pytest.approx(3000, abs=120)
    assert counts["large"] / counts["small"] == pytest.approx(100**0.8, rel=0.5)
    assert all(item["index"] == i for i, item in enumerate(items) if item["name"] == "text")
    again = MultiTaskMixture(Numbers("text", 4000), tasks, ratio=0.25, seed=1)
    assert [again[i] for i in range(99, -1, -1)] == items[99::-1]
    assert MultiTaskMixture(Numbers("text", 5), tasks, ratio=0.0, seed=1)[3]["name"] == "text"
    weights = task_weights([100, 500_000, 1_000_000])
    assert weights[1] == weights[2]
    assert np.isclose(sum(weights), 1.0)
    for sizes, ratio in (([], 0.5), ([0], 0.5), ([3], 1.5)):
        broken = {str(i): Numbers("t", n) for i, n in enumerate(sizes)}
        with pytest.raises(ValueError, match="multi-task mix"):
            MultiTaskMixture(Numbers("text", 5), broken, ratio, seed=1)


def test_workers_outlive_signals_to_the_whole_run(dataset: Any) -> None:
    loader = iter(build_loader(dataset, GlobalBatchSampler(len(dataset), 0, 8, 0, 1), 1))
    found = [next(loader)]
    (worker,) = multiprocessing.active_children()
    for name in ("INT", "TERM"):  # not from here: the parent's own signals count
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    found += list(loader)  # more than is fetched ahead
    assert len(found) == len(load(dataset)) == 8
    worker.terminate()
    worker.join(timeout=30)
    assert worker.exitcode == 0
