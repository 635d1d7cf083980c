"""Wall time of distillation over pipeline stages, against what its schedule can reach at best.

    python scripts/bench/pipeline.py [--stages 2] [--micro-batches 8] [--rounds 3] [--json out.json]
    python scripts/bench/pipeline.py --stages 4 --imitated [--unit 0.04]

With p stages and m micro-batches, F_s, F_t, B_s the times of one forward of the student, of the
teacher and of one backward on a stage, a schedule that ends a step before it begins the next takes
at least

    bound = m (F_s + F_t + B_s) + (p - 1) (F_t + B_s)

(of unequal stages, m times the slowest one's sum, and F_t + B_s of the others). Measured, on gloo
ranks of this machine with the engine's own step, schedule and optimizer:

plain       teachers run when the student asks for them (model.run_ahead.micro_batches=0)
same step   also where the schedule waits
next step   there also with the next step's micro-batches, which the bound does not allow for

All parts are measured in the same steps as the wall time, which is that of all but the optimizer.
``--imitated``: models of almost no size, and sleeps of u, 2.5 u and 2 u in place of
their calculation; so a machine shows the times of more stages than it has cores. It does so by
itself where there are more stages than cores. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from pipeline_steps import Run

from glmkd_nemo.distill.ahead_bounds import OFF, Bounds


def modes(args: argparse.Namespace) -> dict[str, Bounds]:
    """How far teachers may be ahead, by name."""
    return {"plain": OFF, "same step": Bounds(args.ahead), "next step": Bounds(args.ahead, True)}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """By mode: mean wall time of a step, the bound with the parts of these steps, and the parts.

    The modes take turns, so that a slow minute of the machine hits them alike. Of each turn the
    first steps, in which the queue fills, and the last, in which it empties, are left out.
    """
    runs = {name: Run(args, bounds) for name, bounds in modes(args).items()}
    walls: dict[str, list[float]] = {name: [] for name in runs}
    number = 0
    for turn in range(args.rounds + 1):
        for name, run in runs.items():
            dist.barrier()
            for i in range(args.steps):
                wall = run.one_step(number, last=i == args.steps - 1)
                if turn and 2 <= i < args.steps - 1:
                    walls[name].append(wall)
                number += 1
            if not turn:  # one to warm up
                run.clock.spent.clear()
    return {name: summary(run, statistics.mean(walls[name])) for name, run in runs.items()}


def summary(run: Run, wall: float) -> dict[str, Any]:
    """What a mode showed."""
    names = ("student", "teacher", "backward")
    mine = [statistics.mean(run.clock.spent[name]) for name in names]
    stages: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(stages, [*mine, run.step.ahead.peak, run.step.ahead.filled])
    times = torch.tensor([row[:3] for row in stages])
    whole, late = times.sum(1), times[:, 1:].sum(1)
    slowest = int(whole.argmax())
    work = float(run.count * whole[slowest])
    return {
        "wall": wall,
        "work": work,
        "bound": work + float(late.sum() - late[slowest]),
        "stages": [dict(zip((*names, "peak", "filled"), row, strict=True)) for row in stages],
    }


def rank_main(rank: int, args: argparse.Namespace, port: int, target: str) -> None:
    """One stage; the first one writes what was found."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", rank=rank, world_size=args.stages)
    parallel_state.initialize_model_parallel(1, args.stages)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    found = measured(args)
    if rank == 0:
        Path(target).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def show(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Prints the table."""
    kind = f"imitated by sleeping, u = {args.unit} s" if args.imitated else "real calculation"
    print(f"p = {args.stages} stages, m = {args.micro_batches} micro-batches, {kind}; ", end="")
    print(f"queue of {args.ahead}; {os.cpu_count()} cores; seconds")
    print(f"{'mode':11s}{'wall':>8s}{'bound':>8s}{'ratio':>7s}  below   F_s + F_t + B_s by stage")
    for name, row in found.items():
        parts = ["+".join(f"{s[k]:.3f}" for k in list(s)[:3]) for s in row["stages"]]
        below = "yes" if row["wall"] < row["bound"] else "no"
        ratio = row["wall"] / row["bound"]
        line = f"{name:11s}{row['wall']:8.3f}{row['bound']:8.3f}{ratio:7.3f}  {below:5s}"
        print(f"{line}   {', '.join(parts)}")
        waits = ", ".join(f"{s['filled']} (queue {s['peak']})" for s in row["stages"])
        if name != "plain":
            print(f"{'':11s}forwards of the teacher in waiting times, by stage: {waits}")


def main() -> None:
    """Parses the command line, starts the stages and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--ahead", type=int, help="most tap sets held; default: twice the stages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of a mode in a round, at least 4")
    parser.add_argument("--imitated", action="store_true")
    parser.add_argument("--unit", type=float, default=0.04, help="seconds, for --imitated")
    parser.add_argument("--json", type=Path, help="where to write what was found")
    args = parser.parse_args()
    args.ahead = args.ahead or 2 * args.stages
    args.imitated = args.imitated or args.stages > (os.cpu_count() or 1)
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port, target = probe.getsockname()[1], Path(folder, "found.json")
        probe.close()
        start = torch.multiprocessing.start_processes  # forked: libraries are imported once
        start(rank_main, (args, port, str(target)), args.stages, start_method="fork")
        found = json.loads(target.read_text())
    show(args, found)
    if args.json:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        args.json.write_text(json.dumps({"settings": settings, "modes": found}, indent=2))


if __name__ == "__main__":
    main()
