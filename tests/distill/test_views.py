"""Several views of a micro-batch, stacked for one forward pass and taken apart again."""

from __future__ import annotations

import torch

from glmkd_nemo.distill.method import Batch, TaskBatch
from glmkd_nemo.distill.taps import HEADS, Tap
from glmkd_nemo.distill.views import Views, stacked


def batch(rows: int, first: int, choices: int | None = None) -> Batch:
    ids = torch.arange(first, first + rows).unsqueeze(1).repeat(1, 3)
    task = None
    if choices is not None:
        mask = torch.ones(rows // choices, choices)
        task = TaskBatch(torch.arange(rows // choices), ids, choice_mask=mask)
    positions = ids.unsqueeze(1).repeat(1, 2, 1)
    return Batch(ids, positions, torch.ones(rows), ids, ids.float(), task)


def test_one_view_is_the_batch_itself():
    only, taps = batch(2, 0), {("hidden", 0): Tap(torch.zeros(2, 3, 4))}
    assert stacked([only]) is only
    assert Views(taps, [2])[0] is taps


def test_views_of_different_sizes_are_told_apart():
    whole = stacked([batch(2, 0), batch(4, 10)])
    assert whole.input_ids[:, 0].tolist() == [0, 1, 10, 11, 12, 13]
    assert whole.position_ids.shape == (6, 2, 3)
    assert whole.attention_mask.shape == (6,)
    tap = Tap(whole.input_ids.float(), HEADS)
    views = Views({("query", 1): tap}, [2, 4])
    assert views[0]["query", 1].value[:, 0].tolist() == [0, 1]
    assert views[1]["query", 1].value[:, 0].tolist() == [10, 11, 12, 13]
    assert views[1]["query", 1].shard == HEADS


def test_answers_have_a_row_for_several_sequences():
    whole = stacked([batch(4, 0, choices=2), batch(4, 10, choices=2)])
    assert whole.task is not None
    assert whole.task.label.tolist() == [0, 1, 0, 1]
    assert whole.task.choice_mask is not None
    assert whole.task.choice_mask.shape == (4, 2)
    classes = Tap(torch.arange(8.0).view(4, 2))
    views = Views({("classes", None): classes}, [4, 4])
    assert views[1]["classes", None].value.tolist() == [[4, 5], [6, 7]]


def test_a_view_is_cut_once():
    views = Views({("hidden", 0): Tap(torch.zeros(4, 3, 4))}, [2, 2])
    assert views[1] is views[1]
