"""What LRC-BERT needs of several data-parallel ranks, against one process with all samples."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from glmkd_nemo.distill.contrastive import cos_nce
from glmkd_nemo.distill.parallel import dp_rank, gather_samples
from tests.distill.ranks import layout

SHAPE = (4, 3, 5)  # of all samples
Checks = dict[str, bool]


def draw(seed: int) -> Tensor:
    """The same on all ranks."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*SHAPE, generator=generator, dtype=torch.float64)


def whole() -> tuple[Tensor, Tensor, Tensor]:
    """Loss per sample, and gradients of its mean on student and teacher, in one process."""
    s, t = draw(0).requires_grad_(), draw(1).requires_grad_()
    loss = cos_nce(s, t)
    loss.mean().backward()
    return loss.detach(), s.grad, t.grad


def on_two_ranks(expected: tuple[Tensor, Tensor, Tensor]) -> Checks:
    """Two samples on each rank: values and gradients are those of one process."""
    with layout():
        mine = slice(2 * dp_rank(), 2 * dp_rank() + 2)
        s, t = (draw(seed)[mine].clone().requires_grad_() for seed in (0, 1))
        loss = cos_nce(s, t, gather_dp=True)
        loss.mean().backward()
        found = (loss.detach(), s.grad, t.grad)
        loss_of_all, *gradients = expected
        # a rank's loss is the mean of two samples, and DDP averages over ranks: halves of it
        right = [loss_of_all[mine], *(2 * g[mine] for g in gradients)]
        names = ("loss", "student's gradient", "teacher's gradient")
        checks = {
            name: torch.allclose(x, y, atol=1e-12)
            for name, x, y in zip(names, found, right, strict=True)
        }
        return _on_all({**checks, **_gathering()})


def _gathering() -> Checks:
    factors = [draw(seed) for seed in (2, 3)]
    mine = slice(2 * dp_rank(), 2 * dp_rank() + 2)
    x = draw(4)[mine].clone().requires_grad_()
    gathered = gather_samples(x)
    (gathered * factors[dp_rank()]).sum().backward()
    assert x.grad is not None
    checks = {
        "gathered": torch.equal(gathered, draw(4)),
        "its gradient is summed": torch.allclose(x.grad, sum(factors)[mine]),
    }
    try:
        gather_samples(torch.zeros(2 + dp_rank(), 3))
    except ValueError as error:
        told = "from [2, 3] to [3, 3]" in str(error)
        return {**checks, "uneven ranks are told, not left hanging": told}
    return {**checks, "uneven ranks are told, not left hanging": False}


def _on_all(checks: Checks) -> Checks:
    """What holds on every rank."""
    held = torch.tensor(list(checks.values())).int()
    dist.all_reduce(held, op=dist.ReduceOp.MIN)
    return dict(zip(checks, held.bool().tolist(), strict=True))
