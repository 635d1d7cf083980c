"""Gradients that a backward adds to Megatron-Core's buffer itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.fused_kl import HeadTerm, Workspace, head_losses
from glmkd_nemo.distill.row_loss import HardLabels
from glmkd_nemo.models.logits import Logits
from glmkd_nemo.models.mask import AttentionMask
from tests.models import tiny

pytestmark = pytest.mark.usefixtures("alone")


def loss(hidden: Tensor, head: Tensor, space: Workspace) -> Tensor:
    labels = torch.arange(len(hidden)) % len(head)
    weight = torch.full((len(hidden),), 1 / len(hidden), dtype=hidden.dtype)
    return head_losses(hidden, head, [HeadTerm(HardLabels(), weight, labels=labels)], space)[0]


def test_head_adds_up_micro_batches_in_flight_together():
    g = torch.Generator().manual_seed(0)
    first, second = (torch.randn(30, 8, generator=g, dtype=torch.float64) for _ in range(2))
    weights = torch.randn(50, 8, generator=g, dtype=torch.float64)
    head, plain = (weights.clone().requires_grad_() for _ in range(2))
    head.main_grad = torch.ones_like(weights)
    space = Workspace(16)
    for factor in (1.0, 3.0):
        both = [loss(x, head, space) for x in (first, second)]  # as in a pipeline
        for x, total in zip((first, second), both, strict=True):
            (factor * total).backward()
            (factor * loss(x, plain, Workspace(16))).backward()
    assert head.grad is None
    assert plain.grad is not None
    torch.testing.assert_close(head.main_grad, plain.grad + 1, rtol=1e-12, atol=1e-14)


def test_head_leaves_padding_out():
    g = torch.Generator().manual_seed(0)
    states, weight = torch.randn(15, 2, 8, generator=g), torch.randn(56, 8, generator=g)
    weight.requires_grad_().main_grad = torch.zeros_like(weight)
    logits = Logits(states, weight, vocab_size=50, sequence_parallel=False)
    hidden = logits.states(torch.ones(2, 15, dtype=torch.bool))
    loss(hidden, logits.head, Workspace(16)).backward()
    assert weight.grad is None
    plain = weight.detach()[:50].requires_grad_()
    loss(hidden, plain, Workspace(16)).backward()
    torch.testing.assert_close(weight.main_grad[:50], plain.grad)
    assert not weight.main_grad[50:].any()


def test_words_add_the_rows_of_all_their_places():
    embedding = tiny.model().embedding
    weight, batch = embedding.word_embeddings.weight, tiny.batch()
    mask = AttentionMask(batch["attention_mask"], tiny.SEQUENCE)
    batch["input_ids"][:, :3] = 5
    upstream = torch.randn(tiny.SEQUENCE, 2, weight.shape[1], dtype=weight.dtype)

    def backward() -> None:
        embedding(batch["input_ids"], batch["position_ids"], mask).backward(upstream)

    backward()
    expected, weight.grad = weight.grad, None
    assert expected is not None
    weight.main_grad = torch.ones_like(weight)
    backward()
    assert weight.grad is None
    torch.testing.assert_close(weight.main_grad, expected + 1)
