"""Errors of the fused prediction head: loss x TP 1, 2, 4 x sequence parallelism.

    python scripts/bench/fused_errors.py [--vocab 30592] [--json FILE]

Relative norms of the error in fp32 of value, gradient by hidden states and gradient by the head,
against plain float64 torch in one process. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

import torch
from torch import Tensor

from glmkd_nemo.distill.fused_kl import HeadTerm, Workspace, head_losses
from glmkd_nemo.distill.row_loss import HardLabels, RowLoss
from glmkd_nemo.engine.cpu import install
from glmkd_nemo.models.logits import Logits
from scripts.bench.fused import LOSSES, tensors


def errors(args: argparse.Namespace) -> dict[str, Any]:
    """Relative errors by loss and layout."""
    table: dict[str, dict[str, list[float]]] = {}
    layouts = [(1, False), (2, False), (2, True), (4, False), (4, True)]
    for ranks, sp in layouts:
        context = torch.multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        torch.multiprocessing.spawn(
            _errors_of_rank, (ranks, sp, args.port, args.vocab, queue), nprocs=ranks
        )
        for name, found in queue.get().items():
            table.setdefault(name, {})[f"TP{ranks}{'+SP' if sp else ''}"] = found
    print("relative error of value / by hidden states / by head, against float64")
    for name, by_layout in table.items():
        for layout, found in by_layout.items():
            print(f"{name:12s}{layout:8s}" + " / ".join(f"{e:.1e}" for e in found))
    return table


def _errors_of_rank(rank: int, ranks: int, sp: bool, port: int, vocab: int, queue: Any) -> None:
    install()
    from megatron.core import parallel_state

    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port + 10 * ranks + sp}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=ranks)
    parallel_state.initialize_model_parallel(ranks)
    x = tensors(256, vocab, 64, torch.float64)
    labels = torch.randint(vocab, (256,), generator=torch.Generator().manual_seed(1))
    result = {}
    for name, loss in LOSSES.items():
        exact = [y.clone().requires_grad_(i < 2) for i, y in enumerate(x)]
        ours = _of_shards(loss, x, labels, rank, ranks, sp)
        if rank == 0:
            result[name] = [*ours, *_exact(name, loss, exact, labels)]
    if rank == 0:
        queue.put({name: _relative(found[:3], found[3:]) for name, found in result.items()})
    torch.distributed.destroy_process_group()


def _exact(name: str, loss: RowLoss, x: list[Tensor], labels: Tensor) -> list[Tensor]:
    """Plain float64 torch, without anything of this project."""
    s, t = x[0] @ x[1].T, x[2] @ x[3].T
    T = getattr(loss, "temperature", 1.0)
    q, p = (s / T).log_softmax(-1), (t / T).log_softmax(-1)
    rows = {
        "kl": lambda: (p.exp() * (p - q)).sum(-1) * T**2,
        "ce": lambda: -(p.exp() * q).sum(-1),
        "mse": lambda: (s - t).square().sum(-1),
        "reverse_kl": lambda: (q.exp() * (q - p)).sum(-1) * T**2,
        "hard": lambda: torch.nn.functional.cross_entropy(s, labels, reduction="none"),
        "jsd": lambda: _mixed(p, q, 0.5) * T**2,
        "skewed_kl": lambda: (p.exp() * (p - _mixture(p, q, 0.1))).sum(-1) * T**2,
    }[name]()
    value = rows.mean()
    value.backward()
    return [value.detach(), x[0].grad, x[1].grad]  # type: ignore[list-item]


def _mixture(p: Tensor, q: Tensor, weight: float) -> Tensor:
    return (weight * p.exp() + (1 - weight) * q.exp()).log()


def _mixed(p: Tensor, q: Tensor, beta: float) -> Tensor:
    m = _mixture(p, q, beta)
    return beta * (p.exp() * (p - m)).sum(-1) + (1 - beta) * (q.exp() * (q - m)).sum(-1)


def _of_shards(
    loss: RowLoss, x: list[Tensor], labels: Tensor, rank: int, ranks: int, sp: bool
) -> list[Tensor]:
    """In fp32 on the ranks, gathered."""
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    low = [y.float() for y in x]
    states = [low[i].unsqueeze(1) for i in (0, 2)]  # [s, 1, h]
    if sp:
        states = [y.chunk(ranks)[rank].clone() for y in states]
    heads = [low[i].chunk(ranks)[rank].clone() for i in (1, 3)]
    leaves = [states[0].requires_grad_(), heads[0].requires_grad_()]
    student, teacher = (Logits(h, w, len(x[1]), sp) for h, w in zip(states, heads, strict=True))
    everywhere = torch.ones(1, len(x[0]), dtype=torch.bool)
    weight = torch.full((len(x[0]),), 1 / len(x[0]))
    own: tuple[Any, ...] = (teacher.states(everywhere), teacher.head, None)
    if isinstance(loss, HardLabels):
        own = (None, None, labels - student.columns.start)
    term = HeadTerm(loss, weight, *own)
    total, _ = head_losses(student.states(everywhere), student.head, [term], Workspace())
    total.backward()
    by_hidden, by_head = (leaf.grad for leaf in leaves)
    shards = [torch.empty_like(by_head) for _ in range(ranks)]
    torch.distributed.all_gather(shards, by_head.contiguous(), group=group)
    by_head = torch.cat(shards)
    if sp:
        shards = [torch.empty_like(by_hidden) for _ in range(ranks)]
        torch.distributed.all_gather(shards, by_hidden.contiguous(), group=group)
        by_hidden = torch.cat(shards)
    return [total.detach(), by_hidden.squeeze(1), by_head]


def _relative(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((x.double() - y).norm() / y.norm()) for x, y in zip(found, exact, strict=True)]


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--vocab", type=int, default=30592)
    parser.add_argument("--port", type=int, default=29610)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = errors(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
