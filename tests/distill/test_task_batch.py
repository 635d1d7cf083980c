"""Batches of tasks: shapes, labels, and who sees whom where answers share a context."""

from __future__ import annotations

import torch

from glmkd_nemo.distill.method import batch_of
from glmkd_nemo.distill.task_batch import multi_token, packed_choices, pooled, single_token

LABEL = torch.tensor([1, 0])


def ids(*shape: int) -> torch.Tensor:
    return torch.arange(1, 1 + torch.Size(shape).numel()).view(shape)


def test_single_token_labels_the_blank():
    verbalizers = torch.tensor([[20, 35], [20, 35]])
    fields = single_token(ids(2, 4), ids(2, 2, 4), torch.tensor([3, 1]), verbalizers, LABEL)
    batch = batch_of(fields)
    assert batch.labels.tolist() == [[0, 0, 0, 35], [0, 20, 0, 0]]
    assert batch.target.tolist() == batch.pad_labels.tolist()
    assert batch.task is not None
    assert batch.task.target_ids is verbalizers


def test_multi_token_makes_a_sequence_of_each_answer():
    mask, pads = torch.zeros(2, 3, 4, dtype=torch.int64), torch.tensor([[1, 1, 0], [1, 1, 1]])
    mask[1, 2, 3] = 1
    fields = multi_token(
        ids(2, 3, 4), ids(2, 3, 2, 4), ids(2, 3), 50 + ids(2, 3, 4), mask, LABEL, pads
    )
    batch = batch_of(fields)
    assert torch.equal(batch.input_ids, ids(6, 4))
    assert torch.equal(batch.position_ids, ids(6, 2, 4))
    assert batch.attention_mask.tolist() == [1, 2, 3, 4, 5, 6]
    assert torch.equal(batch.labels, 50 + ids(6, 4))
    assert batch.target.nonzero().tolist() == [[5, 3]]
    assert batch.task is not None
    assert torch.equal(batch.task.target_mask, mask.flatten(0, 1))
    assert batch.task.choice_mask is pads


def test_pooled_takes_sequences_or_choices():
    one = pooled(ids(2, 4), ids(2, 2, 4), ids(2), LABEL)
    assert torch.equal(one["input_ids"], ids(2, 4))
    several = pooled(ids(2, 3, 4), ids(2, 3, 2, 4), ids(2, 3), LABEL)
    assert torch.equal(several["input_ids"], ids(6, 4))
    assert torch.equal(several["position_ids"], ids(6, 2, 4))
    assert several["attention_mask"].shape == (6,)
    assert not batch_of(several).target.any()


def test_answers_behind_one_context_see_it_and_themselves():
    context = ids(1, 3), ids(1, 2, 3), torch.tensor([2])
    choices = 10 + ids(1, 2, 2), 10 + ids(1, 2, 2, 2), torch.tensor([[2, 1]])
    mask = torch.tensor([[[1, 1], [1, 0]]])
    fields = packed_choices(context, choices, 20 + ids(1, 2, 2), mask, LABEL[:1])
    assert fields["input_ids"].tolist() == [[1, 2, 3, 11, 12, 13, 14]]
    assert fields["position_ids"].tolist() == [
        [[1, 2, 3, 11, 12, 15, 16], [4, 5, 6, 13, 14, 17, 18]]
    ]
    assert fields["labels"].tolist() == [[0, 0, 0, 21, 22, 23, 24]]
    assert fields["loss_mask"].tolist() == [[0, 0, 0, 1, 1, 1, 0]]
    assert fields["attention_mask"].int().tolist() == [
        [
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 0, 1, 0, 0, 0],  # the first answer sees two positions of the context
            [1, 1, 0, 1, 1, 0, 0],
            [1, 0, 0, 0, 0, 1, 0],  # the second one
            [1, 0, 0, 0, 0, 1, 1],
        ]
    ]
    task = fields["task"]
    assert task.choices == 2
    assert task.choice_of.tolist() == [[0, 0, 0, 0, 0, 1, 1]]
