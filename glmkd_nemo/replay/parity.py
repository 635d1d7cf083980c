"""Replays cases of every method in every layout, and writes the worst errors as a table."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.cli import STUCK
from glmkd_nemo.replay.flags import NotYet

PATTERN = "readme"
LABELS = ("hard", "kd")  # terms that stand beside those of most methods
COLLECTIONS = (
    "distill_pt",
    "distill_ft_multi",
    "distill_ft_single",
    "distill_ft_lm",
    "distill_mt",
)


@dataclass(frozen=True)
class Layout:
    """A way to run a case: ``tp * pp`` processes."""

    name: str
    tp: int = 1
    pp: int = 1
    sp: bool = False
    recompute: str | None = None
    dtype: str = "float32"


LAYOUTS = (
    Layout("one process"),
    Layout("TP2", tp=2),
    Layout("TP2+SP", tp=2, sp=True),
    Layout("PP2", pp=2),
    Layout("TP2 x PP2", tp=2, pp=2),
    Layout("recompute full", recompute="full"),
    Layout("bf16", dtype="bfloat16"),
)


@dataclass(frozen=True)
class Worst:
    """A case's errors in a layout.

    Attributes:
        values: largest relative error of loss and components.
        gradients: largest relative error of a gradient; in bf16 of those above the last
            digit of the whole gradient.
        in_float64: whether it was run in float64, fp32 being badly conditioned.
        refused: why it does not run, if so.
    """

    values: float = 0.0
    gradients: float = 0.0
    in_float64: bool = False
    refused: str | None = None

    @property
    def error(self) -> float:
        """The larger one."""
        return max(self.values, self.gradients)


def cases_of(folder: Path) -> dict[str, list[Case]]:
    """Counted cases by method: those of the recipes, or the first one where there is none.

    Raises:
        ValueError: no case under `folder`.
    """
    by_method: dict[str, list[Case]] = {}
    for collection in COLLECTIONS:
        for path in sorted((folder / collection).glob("*/case.json")):
            case = Case(path.parent)
            for name in _methods_of(case) if case.excluded is None else ():
                by_method.setdefault(name, []).append(case)
    if not by_method:
        raise ValueError(f"{folder} has no cases: give the folder with {', '.join(COLLECTIONS)}.")
    chosen = {
        name: [c for c in cases if PATTERN in c.folder.name] or cases[:1]
        for name, cases in by_method.items()
    }
    return dict(sorted(chosen.items()))


def _methods_of(case: Case) -> list[str]:
    """What a case is about: its aggregator, or the methods of its terms beside the labels."""
    try:
        terms, aggregator = case.aggregation
    except NotYet:
        return []
    if aggregator is not None:
        return [str(aggregator["name"])]
    used = {str(term["method"]) for term in terms.values()}
    return sorted(used - set(LABELS)) or sorted(used & {"kd"})


def measure(cases: Iterable[Case], layout: Layout) -> dict[str, Worst]:
    """Errors by case, on ranks started here; one launch for all of them."""
    folders = sorted({str(case.folder) for case in cases})
    with socket.socket() as probe, tempfile.TemporaryDirectory() as scratch:
        probe.bind(("127.0.0.1", 0))
        port, answer = probe.getsockname()[1], Path(scratch, "answer.json")
        probe.close()
        mp.spawn(_rank, (folders, layout, port, str(answer)), nprocs=layout.tp * layout.pp)
        found = json.loads(answer.read_text())
    return {name: Worst(**values) for name, values in found.items()}


def _rank(rank: int, folders: Sequence[str], layout: Layout, port: int, answer: str) -> None:
    from megatron.core import parallel_state, tensor_parallel

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = layout.tp * layout.pp
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=STUCK)
    parallel_state.initialize_model_parallel(layout.tp, layout.pp)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    found = {}
    for number, folder in enumerate(folders, 1):
        case = Case(Path(folder))
        found[case.name] = asdict(_worst(case, layout))
        if rank == 0:
            print(f"\r  {layout.name:<16} {number}/{len(folders)}", end="", flush=True)
    if rank == 0:
        print()
        Path(answer).write_text(json.dumps(found))
    dist.destroy_process_group()


def _worst(case: Case, layout: Layout) -> Worst:
    from glmkd_nemo.replay.compare import TOLERANCE

    dtype = getattr(torch, layout.dtype)
    try:
        found = _errors(case, layout, dtype)
    except (ValueError, NotYet) as refused:
        return Worst(refused=str(refused))
    again: list[Any] = [dtype is torch.float32 and found.error > TOLERANCE]
    dist.broadcast_object_list(again, src=0)  # one decision: errors are complete on rank 0 only
    return _errors(case, layout, torch.float64) if again[0] else found


def _errors(case: Case, layout: Layout, dtype: torch.dtype) -> Worst:
    from glmkd_nemo.replay.compare import errors
    from glmkd_nemo.replay.run import run_case

    found = errors(case, run_case(case, layout.sp, dtype, layout.recompute))
    values = max(e.value for e in found if e.kind in ("loss", "component"))
    nothing = _below_last_digit(case, dtype) if dtype is torch.bfloat16 else set()
    gradients = max(
        e.value for e in found if e.kind == "gradient" and e.name.split(" (")[0] not in nothing
    )
    return Worst(values, gradients, in_float64=dtype is torch.float64)


def _below_last_digit(case: Case, dtype: torch.dtype) -> set[str]:
    """Gradients too small, beside the whole gradient, to be told from rounding."""
    found = set()
    for number, step in enumerate(case.steps):
        label = f"step {number}: " if len(case.steps) > 1 else ""
        last_digit = torch.finfo(dtype).eps * float(step.record.get("grad_norm") or 0.0)
        statistics: dict[str, list[float]] = step.record["grad_stats"]
        tiny = [n for n, (norm, *_) in statistics.items() if float(norm) < last_digit]
        found |= {f"{label}{name}" for name in tiny}
    return found
