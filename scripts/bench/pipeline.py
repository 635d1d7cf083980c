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
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import schedules

from glmkd_nemo.distill.ahead_bounds import OFF, Bounds
from glmkd_nemo.distill.method import StepContext
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.passes import run_passes
from glmkd_nemo.distill.pipeline import mark_shared, sum_over_stages
from glmkd_nemo.distill.placement import place_teacher, tapped_layers
from glmkd_nemo.distill.run_ahead import Pass
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import Teacher, shape_of
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel

TERMS = {"layers": {"method": "tinybert", "attention": False}, "soft": {"method": "kd"}}
REAL = {"hidden_size": 256, "num_attention_heads": 4}, {"batch": 4, "sequence": 128, "vocab": 2048}
TINY = {"hidden_size": 8, "num_attention_heads": 2}, {"batch": 1, "sequence": 8, "vocab": 16}
BACKWARD = schedules.backward_step
SLEEPS = {"student": 1.0, "teacher": 2.5, "backward": 2.0}  # units


class Clock:
    """Seconds spent in each part on this rank, call by call."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def timed(self, part: str, call: Callable[..., Any], without: str = "") -> Callable[..., Any]:
        """The function, timed; less what was spent in another part meanwhile."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            before, inner = time.perf_counter(), sum(self.spent.get(without, []))
            result = call(*args, **kwargs)
            inner = sum(self.spent.get(without, [])) - inner
            self.spent.setdefault(part, []).append(time.perf_counter() - before - inner)
            return result

        return wrapper


class TimedStep(DistillationStep):
    """A step that tells the student's part of it."""

    clock: Clock

    def __call__(self, data_iterator: Any, model: Any) -> Any:
        """Less what the taps of the teacher take."""
        return self.clock.timed("student", super().__call__, without="take")(data_iterator, model)


def after_sleep(seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which takes so much longer."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return call(*args, **kwargs)

    return wrapper


class Run:
    """A distillation with teachers ahead by ``bounds``, step by step."""

    def __init__(self, args: argparse.Namespace, bounds: Bounds) -> None:
        sizes, self.data = TINY if args.imitated else REAL
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        self.count = args.micro_batches
        student = self._config({**sizes, "num_layers": 2 * stages})
        teacher = self._config({**sizes, "num_layers": 4 * stages})
        terms = {n: term_from_dict(n, t, ["t0"]) for n, t in TERMS.items()}
        objective = Objective(terms, shape_of(student), {"t0": shape_of(teacher)})
        parts = objective.possible_parts()
        split = place_teacher("t0", parts, student.split, teacher.num_layers)
        teacher = self._config({**sizes, "num_layers": 4 * stages}, split)
        self.model = _model(student, tapped_layers(parts, None))
        self.model.add_module("distill", objective)
        mark_shared(objective)
        self.teacher = Teacher(_model(teacher, tapped_layers(parts, "t0")))
        self.step = TimedStep(student, objective, {"t0": self.teacher}, bounds)
        self.chunks = schedule.wrap_in_ddp([self.model], student, "adam")
        optim = {"name": "adam", "lr": 1e-4, "weight_decay": 0.01, "betas": [0.9, 0.999]}
        self.optimizer = build_optimizer(_Section(optim), "32", self.chunks)
        student.finalize_model_grads_func = self._finalize
        self.step.clock = self.clock = Clock()
        self._wrap(args.unit if args.imitated else 0.0)

    def _wrap(self, unit: float) -> None:
        timed, ahead, teacher = self.clock.timed, self.step.ahead, self.teacher
        slow = {name: partial(after_sleep, unit * units) for name, units in SLEEPS.items()}
        self.model.forward = slow["student"](self.model.forward)
        teacher.forward = timed("teacher", slow["teacher"](teacher.forward))  # type: ignore[method-assign]
        ahead.take = timed("take", ahead.take)  # type: ignore[method-assign]
        self.optimizer.step = timed("optimizer", self.optimizer.step)
        self.backward = timed("backward", slow["backward"](BACKWARD))

    def _config(self, sizes: dict[str, int], split: list[int] | None = None) -> Any:
        fixed = {"max_position_embeddings": 512, "hidden_dropout": 0.0, "attention_dropout": 0.0}
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        layout = {"tensor_model_parallel_size": 1, "pipeline_model_parallel_size": stages}
        given = {**sizes, **fixed, "make_vocab_size_divisible_by": 8}
        return glm_config_from_cfg(given, self.data["vocab"], parallel=layout, split=split)

    def _finalize(self, chunks: list[Any], *args: Any, **kwargs: Any) -> None:
        self.step.ahead.wait_for_stages()
        sum_over_stages(self.step.objective)
        finalize_model_grads(chunks, *args, **kwargs)

    def coming(self, number: int) -> Pass:
        """The micro-batches of a step."""
        generator = torch.Generator().manual_seed(number)
        b, s, vocab = self.data["batch"], self.data["sequence"], self.data["vocab"]
        context = s * 7 // 8
        place = torch.arange(s).repeat(b, 1)
        position = torch.stack(
            [place.clamp(max=context - 1), (place - context + 1).clamp(min=0)], 1
        )
        ids = torch.randint(1, vocab, (self.count, 2, b, s), generator=generator)
        given = {"position_ids": position, "attention_mask": torch.full((b,), context)}
        given["loss_mask"] = (place >= context).float()
        batches = [{**given, "input_ids": x, "labels": y} for x, y in ids]
        return Pass(StepContext(step=number, max_steps=10**6), batches, number)

    def one_step(self, number: int, last: bool) -> float:
        """Seconds of a step, its optimizer left out."""
        began, timed = time.perf_counter(), self.clock.spent.setdefault("optimizer", [])
        self.chunks[0].zero_grad_buffer()
        ahead = self.step.ahead.bounds.next_step and not last
        now, following = self.coming(number), self.coming(number + 1) if ahead else None
        schedules.backward_step = self.backward  # the schedule's own, timed
        run_passes(self.step, now, self.chunks, following)
        self.optimizer.step()
        return time.perf_counter() - began - timed[-1]


def _model(config: Any, tapped: set[int]) -> GLMModel:
    first, last = parallel_state.is_pipeline_first_stage(), parallel_state.is_pipeline_last_stage()
    return GLMModel(config, pre_process=first, post_process=last, tapped_layers=tapped)


class _Section(dict):
    """A dict with attributes, as OmegaConf's."""

    __getattr__ = dict.__getitem__


def modes(args: argparse.Namespace) -> dict[str, Bounds]:
    """How far teachers may be ahead, by name."""
    return {"plain": OFF, "same step": Bounds(args.ahead), "next step": Bounds(args.ahead, True)}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """By mode: median wall time of a step, the bound with the parts of these steps, and the parts.

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
    return {name: summary(run, statistics.median(walls[name])) for name, run in runs.items()}


def summary(run: Run, wall: float) -> dict[str, Any]:
    """What a mode showed."""
    names = ("student", "teacher", "backward")
    mine = [statistics.median(run.clock.spent[name]) for name in names]
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
        torch.multiprocessing.spawn(rank_main, (args, port, str(target)), args.stages)
        found = json.loads(target.read_text())
    show(args, found)
    if args.json:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        args.json.write_text(json.dumps({"settings": settings, "modes": found}, indent=2))


if __name__ == "__main__":
    main()
