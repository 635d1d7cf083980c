"""Time and memory of distillation steps against their floor, all measured in one sitting.

    python scripts/bench/step.py [--methods kd glmd | all] [--threads 1 2] [--repeat 5] [--split]
        [--layout tp1 tp2 tp2sp pp2 dp2] [--micro-batches 1] [--trace FILE] [--out FILE.json]
        [--small]

Size: teachers 12 x 256 (8 heads), student 6 x 256, vocabulary 30,592, batch 4, sequence 256 (220 of
context), fp32, no dropout, one AdamW step. Two floors, each a step of the student and a forward of
each teacher:

plain   in plain torch, all logits multiplied out (see plain.py)
own     what this engine needs without distilling: the hard-label step (its head on the positions to
        be predicted only), and the teachers up to their final hidden states

Each thing runs in processes of its own, and they take turns: a round is one step of each, so that a
slow minute of the machine hits them alike. Recipes are those of conf/method and conf/aggregator;
aggregators have two teachers. In a layout of several ranks the plain floor gets as many threads as
all ranks together. Peak RSS is that of the largest rank, from its start. `--split` tells the parts
of a step apart (communication includes waiting for other ranks; data are made beforehand).
On a busy machine the ratio of processor seconds says more than that of medians, at one thread.
Prints tables in Markdown, writes JSON and a plot with the bounds drawn in; asserts nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

from scripts.bench.parts import PARTS
from scripts.bench.recipes import Recipe, groups, read_apart
from scripts.bench.results import bars, machine, markdown, save
from scripts.bench.sizes import REFERENCE, SMALL
from scripts.bench.workers import LAYOUTS, OWN, PLAIN, Job, Worker

TARGETS = {"kd": 0.55, "kd_soft": 0.55, "glmd": 0.9}
TARGET = 1.05  # of all others
WARM_UP = 1
GB = 1e9
KINDS = ("plain_median", "plain_min", "plain_cpu", "own_median")


def measure(
    recipes: Sequence[Recipe], threads: int, layout: str, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Samples of these recipes and of the floors, taken in turns."""
    workers = [Worker(job) for job in _jobs(recipes, threads, layout, args)]
    samples: dict[str, list[dict[str, float]]] = {worker.job.name: [] for worker in workers}
    for number in range(WARM_UP + args.repeat):
        for worker in workers:
            ranks = worker.ask("step")
            if number >= WARM_UP:
                sample = {key: max(rank[key] for rank in ranks) for key in ranks[0]}
                sample["cpu"] = sum(rank["cpu"] for rank in ranks)
                samples[worker.job.name].append(sample)
    rows = []
    for worker in workers:
        where = {"name": worker.job.name, "threads": threads, "layout": layout}
        rows.append({**where, "samples": samples[worker.job.name], **_asked(worker, args)})
        worker.stop()
    return _with_ratios(rows)


def _jobs(
    recipes: Sequence[Recipe], threads: int, layout: str, args: argparse.Namespace
) -> list[Job]:
    _, stages, world, _ = LAYOUTS[layout]
    size = SMALL if args.small else REFERENCE
    plain = [Job(name, size=size, threads=threads * world) for name in PLAIN]
    own = [Job(OWN[0], None, size, threads, layout, args.micro_batches)]
    if stages == 1:
        own.append(Job(OWN[1], None, size, threads, layout))
    found = [Job(r.name, r, size, threads, layout, args.micro_batches) for r in recipes]
    return [*plain, *own, *found]


def _asked(worker: Worker, args: argparse.Namespace) -> dict[str, Any]:
    """What is found out after the timed rounds."""
    recipe = worker.job.recipe
    memory = worker.ask("memory")
    row: dict[str, Any] = {
        "teachers": len(recipe.teachers) if recipe else 0,
        "memory": max(memory, key=lambda m: int(m["peak"])),
    }
    if args.split:
        row["parts"] = _mean_of_ranks(worker.ask("split", 2))
    if args.trace and recipe:
        file = Path(args.trace)
        worker.ask("trace", str(file.with_stem(f"{file.stem}_{recipe.name}")))
    return row


def _mean_of_ranks(ranks: list[dict[str, float]]) -> dict[str, float]:
    names = {name for rank in ranks for name in rank}
    return {name: sum(rank.get(name, 0.0) for rank in ranks) / len(ranks) for name in names}


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds medians, minima and ratios to the floors, which have as many teachers as the row."""
    for row in rows:
        seconds = [sample["seconds"] for sample in row["samples"]]
        row["median"], row["min"] = statistics.median(seconds), min(seconds)
        row["cpu"] = statistics.median(sample["cpu"] for sample in row["samples"])
        row["faults"] = statistics.median(sample["faults"] for sample in row["samples"])
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        for kind, names in (("plain", PLAIN), ("own", OWN)):
            if not all(name in by_name for name in names):
                continue
            student, teacher = (by_name[name] for name in names)
            for how in ("median", "min", "cpu"):
                floor = student[how] + row["teachers"] * teacher[how]
                row[f"{kind}_{how}"] = row[how] / floor
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Times, ratios and memory in Markdown."""
    head = [
        "run",
        "layout",
        "threads",
        "median s",
        "min s",
        "/ plain",
        "(minima)",
        "(cpu s)",
        "/ own",
    ]
    head += ["peak RSS GB", "above idle", "faults / step"]
    lines = []
    for row in rows:
        memory = row["memory"]
        line = [row["name"], row["layout"], str(row["threads"])]
        line += [f"{row['median']:.3f}", f"{row['min']:.3f}"]
        line += [_ratio(row, key) for key in KINDS]
        line += [f"{memory['peak'] / GB:.2f}", f"{(memory['peak'] - memory['idle']) / GB:.2f}"]
        lines.append([*line, f"{row['faults']:,.0f}"])
        if memory["gpu"]:
            lines[-1][-3] = f"{memory['gpu'] / GB:.2f} (GPU)"
    return markdown(head, lines)


def _ratio(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.2f}" if key in row and row["name"] not in (*PLAIN, *OWN) else ""


def split_table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds by part in Markdown."""
    names = [*PARTS, "logging"]
    lines = [
        [row["name"], row["layout"], str(row["threads"])]
        + [f"{1e3 * row['parts'].get(name, 0.0):.1f}" for name in names]
        for row in rows
    ]
    return markdown(["ms of a step", "layout", "threads", *names], lines)


def _groups(recipes: list[Recipe], together: int) -> Iterator[list[Recipe]]:
    for start in range(0, max(len(recipes), 1), together):
        yield recipes[start : start + together]


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Floors that were measured with each group, shown with the first."""
    seen = set()
    found = []
    for row in rows:
        key = (row["name"], row["threads"], row["layout"])
        if key not in seen:
            found.append(row)
        seen.add(key)
    return found


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--methods", nargs="*", default=["kd", "glmd", "tinybert"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--layout", nargs="+", default=["tp1"], choices=list(LAYOUTS))
    parser.add_argument("--micro-batches", type=int, default=1, help="of a step")
    parser.add_argument("--split", action="store_true", help="seconds by part of a step")
    parser.add_argument("--trace", help="writes a trace of one step of each run beside this name")
    parser.add_argument("--small", action="store_true", help="tiny models, to try the script out")
    parser.add_argument("--together", type=int, default=8, help="recipes in memory at a time")
    parser.add_argument("--out", type=Path, help="JSON; the plot gets the same name with .png")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints the tables, writes the files."""
    args = parsed(argv)
    names = list(groups()) if args.methods == ["all"] else args.methods
    recipes = list(read_apart(names, SMALL if args.small else REFERENCE).values())
    targets = {name: TARGETS.get(name, TARGET) for name in names}
    rows: list[dict[str, Any]] = []
    for layout in args.layout:
        for threads in args.threads:
            for group in _groups(recipes, args.together):
                rows += measure(group, threads, layout, args)
                print(f"{layout}, {threads} threads: {[r.name for r in group]}", file=sys.stderr)
                if args.out is not None:  # what there is, should the rest be interrupted
                    save(args.out, {"machine": machine(), "targets": targets, "rows": rows})
    print(table(_once(rows)))
    if args.split:
        print(split_table(_once(rows)))
    if args.out is not None:
        args.out.with_suffix(".png").write_bytes(bars(_once(rows), targets))


if __name__ == "__main__":
    main()
