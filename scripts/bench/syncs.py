"""Waits for the device in a distillation step, by part of the step, with the line that waits.

    python scripts/bench/syncs.py [--methods kd glmd | all] [--layout tp1 ...] [--micro-batches 2]
        [--out FILE.json]

On a machine without a GPU operators are counted that would wait on one (`.item()`, `nonzero`,
boolean indices, `unique`, ..., and tensors made of Python numbers on the device); with a GPU, what
CUDA says. Models are small: waits do not depend on sizes. Loss, logging, schedule ("other") and
optimizer are told apart; those of the loss path should be none. What the backward of an operator
does has the place of Megatron-Core's call of the backward pass. Not counted: torch's Adam reading
its own step number, which stays on the host.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

from scripts.bench.recipes import Recipe, groups, read_apart
from scripts.bench.results import machine, markdown, save
from scripts.bench.sizes import SMALL
from scripts.bench.workers import LAYOUTS, OWN, Job, Worker

HOST = "host value"  # as in host_syncs.py, which imports torch
LOSS_PATH = ("data", "teacher", "student", "loss", "backward", "communication")


def count(worker: Worker, recipe: Recipe | None) -> list[dict[str, Any]]:
    """Rows of one recipe, for all ranks: the most that a rank has of each."""
    if recipe is not None:
        worker.ask("use", recipe)
    found: dict[tuple[str, str, str], float] = {}
    for rank in worker.ask("syncs", 2):
        for part, kind, place, times in rank:
            if kind != HOST:
                found[part, kind, place] = max(times, found.get((part, kind, place), 0.0))
    keys = ("part", "operator", "place")
    rows = [dict(zip(keys, key, strict=True), times=times) for key, times in found.items()]
    where = {"name": OWN[0] if recipe is None else recipe.name, "layout": worker.job.layout}
    return [{**where, **row} for row in rows]


def main() -> None:
    """Counts, prints a table of totals and one of places."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["all"])
    parser.add_argument("--layout", nargs="+", default=["tp1"], choices=list(LAYOUTS))
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    names = list(groups()) if args.methods == ["all"] else args.methods
    recipes = [None, *read_apart(names, SMALL).values()]
    rows: list[dict[str, Any]] = []
    totals = []
    for layout in args.layout:
        worker = Worker(Job(OWN[0], None, SMALL, 1, layout, args.micro_batches))
        for recipe in recipes:
            mine = count(worker, recipe)
            loss = sum(row["times"] for row in mine if row["part"] in LOSS_PATH)
            rest = sum(row["times"] for row in mine) - loss
            name = OWN[0] if recipe is None else recipe.name
            totals.append([name, layout, f"{loss:g}", f"{rest:g}"])
            rows += mine
        worker.stop()
    print(f"Waits in a step of {args.micro_batches} micro-batches:\n")
    print(markdown(["run", "layout", "loss path", "schedule, optimizer, logging"], totals))
    print(markdown(["place", "operator", "part", "times", "run"], _by_place(rows)))
    if args.out is not None:
        save(args.out, {"machine": machine(), "rows": rows})


def _by_place(rows: list[dict[str, Any]], shown: int = 4) -> list[list[str]]:
    """One line for each place, with the runs that come there (the first ones of many)."""
    runs: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        key = (row["place"], row["operator"], row["part"])
        runs.setdefault(key, {})[row["name"]] = row["times"]
    lines = []
    for key, times in sorted(runs.items()):
        least, most = f"{min(times.values()):g}", f"{max(times.values()):g}"
        names = ", ".join(list(times)[:shown])
        more = f" and {len(times) - shown} more" if len(times) > shown else ""
        lines.append([*key, least if least == most else f"{least}-{most}", names + more])
    return lines


if __name__ == "__main__":
    main()
