"""Functions that tests/distill runs on several ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor

from glmkd_nemo.distill import losses, relations
from glmkd_nemo.distill.attention_losses import attention_kl, head_relation
from glmkd_nemo.distill.parallel import all_gather_last, all_max, all_sum, shared, tp_rank
from glmkd_nemo.distill.taps import HEADS, Tap, record, tap
from tests.distill import ahead_ranks, dense, fused_cases, teacher_cases
from tests.distill import steps as whole_steps
from tests.distill.loss_cases import compare, grid, sharded

EXACT = 1e-10
AHEAD = {
    "several_mean": ["next_step", "one"],
    "tinybert": ["same_step", "unforeseen"],
    "diito": ["next_step"],
}


@contextmanager
def layout(tp: int = 1, pp: int = 1) -> Iterator[None]:
    """A parallel layout of all ranks, taken down again at the end."""
    parallel_state.initialize_model_parallel(tp, pp)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()


def everything() -> dict[str, list[str]]:
    """All checks of this file in one launch, as launches are slow."""
    return {**under_tensor_parallelism(), **steps(), **ahead()}


def ahead() -> dict[str, list[str]]:
    """Teachers in the waiting times of two stages."""
    with layout(pp=2):
        return {f"ahead_{case}": lines for case, lines in ahead_ranks.everything(AHEAD).items()}


def under_tensor_parallelism() -> dict[str, list[str]]:
    """By check, what is wrong with it: nothing, if all is well."""
    found: dict[str, list[str]] = {}
    with layout(tp=2):
        for sp in (False, True):
            for case in (c for c in grid() if not sp or c.n in (0, 2)):
                name = f"{case.kind}-{'sp' if sp else 'tp'}"
                found.setdefault(name, []).extend(compare(case, sharded(case, sp)))
        for sp in (False, True):
            found[f"fused-{'sp' if sp else 'tp'}"] = fused_cases.wrong(sp)
        own = losses_by_head, sums_and_gradients, gathered_tap, fused_cases.far_between_ranks
        for check in own:
            found[check.__name__] = check()
    return found


def losses_by_head() -> list[str]:
    """Losses on taps of which each rank has some heads."""
    pairs: list[tuple[str, Callable[[Tap, Tap], Tensor], Callable[[Tensor, Tensor], Tensor]]] = [
        ("mse", losses.mse, lambda s, t: (s - t).square().mean((1, 2, 3))),
        ("cosine", losses.cosine, _cosine),
        ("relation", relations.relation, dense.relation),
        ("head relation", partial(head_relation, relation_heads=10), _ten_relations),
        ("attention", attention_kl, _kl_of_scores),
    ]
    wrong = []
    for name, ours, plain in pairs:
        whole, teacher = (_normal(2, 4, 3, 5, seed=seed) for seed in (0, 1))
        expected = plain(whole.requires_grad_(), teacher)
        (expected.mean()).backward()
        mine = whole.detach().chunk(2, 1)[tp_rank()].clone().requires_grad_()
        value = ours(Tap(mine, HEADS), Tap(teacher.chunk(2, 1)[tp_rank()], HEADS))
        value.mean().backward()
        wrong += _off(f"{name} value", value, expected)
        wrong += _off(f"{name} gradient", mine.grad, whole.grad.chunk(2, 1)[tp_rank()])
    return wrong


def _ten_relations(s: Tensor, t: Tensor) -> Tensor:
    cut = (x.transpose(1, 2).flatten(2).unflatten(-1, (10, 2)).transpose(1, 2) for x in (s, t))
    return dense.relation(*cut)


def _kl_of_scores(s: Tensor, t: Tensor) -> Tensor:
    log_q, log_p = s.log_softmax(-1), t.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean((1, 2))


def sums_and_gradients() -> list[str]:
    """`shared` sums gradients also if they arrive transposed; `all_sum` passes them on."""
    wrong = []
    factors = [_normal(4, 3, seed=seed) for seed in (0, 1)]
    for order in ("contiguous", "transposed"):
        x = _normal(3, 4, seed=2).requires_grad_()
        y = shared(x)
        if order == "transposed":
            (y.t() * factors[tp_rank()]).sum().backward()
        else:
            (y * factors[tp_rank()].t().contiguous()).sum().backward()
        wrong += _off(f"shared, {order}", x.grad, sum(factors).t())
    x = factors[tp_rank()].clone().requires_grad_()
    total = all_sum(x.t())
    (total * 3).sum().backward()
    wrong += _off("all_sum", total, sum(factors).t())
    wrong += _off("all_sum gradient", x.grad, torch.full_like(x, 3.0))
    wrong += _off("all_max", all_max(factors[tp_rank()]), torch.maximum(*factors))
    wrong += _off("all_gather_last", all_gather_last(factors[tp_rank()]), torch.cat(factors, -1))
    return wrong


def gathered_tap() -> list[str]:
    """A replicated loss on a tap gathered under sequence parallelism: gradient once, not twice."""
    whole = _normal(4, 2, 3, seed=0).requires_grad_()
    factor = _normal(2, 4, 3, seed=1)
    (whole.transpose(0, 1).square() * factor).sum().backward()
    mine = whole.detach().chunk(2)[tp_rank()].clone().requires_grad_()
    with record([("hidden", 0)], sequence_parallel=True) as taps:
        tap(mine, "hidden", 0)
    value = taps["hidden", 0].value
    wrong = _off("gathered", value, whole.detach().transpose(0, 1))
    (value.square() * factor).sum().backward()
    return wrong + _off("its gradient", mine.grad, whole.grad.chunk(2)[tp_rank()])


def _cosine(s: Tensor, t: Tensor) -> Tensor:
    dot = (s * t).sum(-1) / (s.norm(dim=-1) * t.norm(dim=-1))
    return 1 - dot.mean((1, 2))


def _normal(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def _off(what: str, x: Tensor, y: Tensor) -> list[str]:
    """A line, on every rank, if this is off by more than rounding on any of them."""
    error = (x.detach() - y.detach()).abs().max()
    dist.all_reduce(error, op=dist.ReduceOp.MAX)
    return [] if float(error) <= EXACT else [f"{what}: off by {float(error):.1e}"]


def steps() -> dict[str, list[str]]:
    """Distillation steps of the same four samples in several layouts, against data parallelism."""
    both = [[0, 1], [2, 3]]
    found: dict[str, list[str]] = {}
    with layout():
        reference = whole_steps.run(both)
        mine = both[dist.get_rank()]
        found["dp2"] = _compare_steps(whole_steps.run([mine]), reference)
        dtypes = {"pp2_changing_needs": torch.float64, "pp2_bf16_teacher": torch.bfloat16}
        alone = {name: teacher_cases.changing_needs(dtype)[0] for name, dtype in dtypes.items()}
    with layout(pp=2):
        found["pp2"] = _compare_steps(whole_steps.run(both), reference)
        found["pp2_one_by_one"] = _compare_steps(
            whole_steps.run([[0, 1], [2, 3], [0, 1], [2, 3]]), reference
        )
        found["pp2_recompute"] = _compare_steps(whole_steps.run(both, recompute="full"), reference)
        values, gradients = whole_steps.run(both, grad_scale=64.0)
        unscaled = {name: g / 64 for name, g in gradients.items()}
        for name, dtype in dtypes.items():
            found[name] = teacher_cases.on_two_stages(alone[name], dtype, _compare_steps)
        found["pp2_scaled"] = _compare_steps((values, unscaled), reference)
    with layout(tp=2):
        found["tp2"] = _compare_steps(whole_steps.run(both), reference)
        found["tp2_sp"] = _compare_steps(whole_steps.run(both, sp=True), reference)
        found["tp2_sp_recompute"] = _compare_steps(
            whole_steps.run(both, sp=True, recompute="selective"), reference
        )
    return found


def _compare_steps(found: tuple[dict, dict], expected: tuple[dict, dict]) -> list[str]:
    wrong = []
    for what, ours, theirs in zip(("value", "gradient"), found, expected, strict=True):
        if ours.keys() != theirs.keys():
            wrong.append(f"{what}: {sorted(ours.keys() ^ theirs.keys())} on one side only")
        for name in ours.keys() & theirs.keys():
            x, y = (torch.as_tensor(z, dtype=torch.float64) for z in (ours[name], theirs[name]))
            error = float((x - y).norm() / y.norm())
            if not error <= 1e-6:  # DDP keeps gradients in fp32
                wrong.append(f"{what} {name}: off by {error:.1e}")
    return wrong
