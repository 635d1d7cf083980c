"""What methods read of a batch, and the random draws of a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from glmkd_nemo.distill.batch import COUNTED, counted
from glmkd_nemo.distill.method import MASKS, Batch, StepContext, batch_of
from glmkd_nemo.distill.views import stacked
from glmkd_nemo.engine.schedule import split

YES, NO = True, False


@pytest.fixture
def batch() -> Batch:
    """Two samples of five; the second ends in padding that labels and positions tell apart."""
    return Batch(
        input_ids=torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]]),
        position_ids=torch.tensor([[[0, 1, 2, 3, 4], [0] * 5], [[0, 1, 2, 0, 3], [0] * 5]]),
        attention_mask=torch.tensor([2, 2]),
        labels=torch.tensor([[1, 2, 0, 4, 5], [1, 2, 3, 6, 0]]),
        loss_mask=torch.tensor([[0.0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]),
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("target", [[NO, NO, YES, YES, NO], [NO, YES, NO, NO, YES]]),
        ("pad_labels", [[YES, YES, NO, YES, YES], [YES, YES, YES, YES, NO]]),
        ("pad_positions", [[YES] * 5, [YES, YES, YES, NO, YES]]),
        ("none", [[YES] * 5, [YES] * 5]),
        ("pad_positions_and_target", [[NO, NO, YES, YES, NO], [NO, YES, NO, NO, YES]]),
    ],
)
def test_masks(batch: Batch, name: str, rows: list[list[bool]]):
    mask = batch.mask(name)
    assert mask.dtype == torch.bool
    assert mask.tolist() == rows
    assert batch.mask(name) is mask  # one object: terms with one mask share their logits


@pytest.mark.parametrize("name", [*MASKS, "pad_positions_and_target"])
def test_positions_are_found_without_waiting_for_the_device(batch: Batch, name: str):
    known = replace(batch, counts=counted(vars(batch)))
    found, plain = known.positions(name), batch.positions(name)
    assert found._count == int(batch.mask(name).sum())
    assert found.index.tolist() == batch.mask(name).flatten().nonzero()[:, 0].tolist()
    assert plain.index.tolist() == found.index.tolist()
    assert known.positions(name) is found
    x = torch.randn(2, 5, 3)
    assert torch.equal(found.of(x), x[batch.mask(name)])
    sums = torch.stack([row[mask].sum() for row, mask in zip(x, batch.mask(name), strict=True)])
    torch.testing.assert_close(found.sum(found.of(x).sum(-1)), sums)


def test_counts_are_cut_and_stacked_with_their_samples(batch: Batch):
    fields = {name: value for name, value in vars(batch).items() if value is not None}
    parts = [batch_of(part) for part in split({**fields, "counts": counted(fields)}, 1)]
    for part in (*parts, stacked([parts[1], parts[0]])):
        assert all(part.positions(n)._count == int(part.mask(n).sum()) for n in COUNTED)


def test_both_masks_are_needed(batch: Batch):
    changed = Batch(**{**vars(batch), "loss_mask": torch.ones(2, 5)})
    assert torch.equal(changed.pad_positions_and_target, batch.pad_positions)


def test_the_names_in_configurations_are_masks(batch: Batch):
    assert [batch.mask(name).shape for name in MASKS] == [(2, 5)] * 4


def test_progress():
    assert StepContext(step=25, max_steps=100).progress == 0.25
    assert StepContext(step=0, max_steps=0).progress == 0.0


def test_draws_depend_on_seed_and_purpose_only():
    def draw(seed: int, step: int, *what: object) -> list[float]:
        generator = StepContext(step=step, seed=seed).draws(*what)
        return [generator.random() for _ in range(3)]

    assert draw(1, 0, "tinybert", 4) == draw(1, 7, "tinybert", 4)
    different = [draw(1, 0, "a", 4), draw(2, 0, "a", 4), draw(1, 0, "b", 4), draw(1, 0, "a", 5)]
    assert len({tuple(row) for row in different}) == 4
