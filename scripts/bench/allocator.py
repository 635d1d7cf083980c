"""What fresh large buffers cost: steps under other settings of glibc's allocator.

    python scripts/bench/allocator.py [--runs plain kd] [--settings default keep] [--threads 1]
        [--repeat 3] [--out FILE.json]

glibc maps each block above a threshold (which grows up to 32 MB) afresh, and gives it back when it
is freed: every page of it is faulted in, and zeroed, in every step. The settings here are variables
that a process is started with:

default     as it is
keep        blocks up to 1 GB come from the heap, the heap is not given back
no mmap     all blocks come from the heap, the heap is not given back
huge pages  the kernel is asked for transparent huge pages (glibc 2.35; where it allows them on
            request)
both        huge pages, and keep

Runs: plain (the floor, see plain.py: a process for the student, one for the teacher), and recipes.
Prints a table in Markdown: seconds, processor seconds (and their ratio to the first setting's) and
minor page faults of a step, peak RSS.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

from scripts.bench.recipes import read_apart
from scripts.bench.results import machine, markdown, save
from scripts.bench.sizes import REFERENCE
from scripts.bench.workers import PLAIN, Job, Worker

_NEVER = str(64 * 2**30)
_KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": _NEVER}
_HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "keep": _KEEP,
    "no mmap": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": _NEVER},
    "huge pages": _HUGE,
    "both": {**_KEEP, **_HUGE},
}
WARM_UP = 1


def measure(jobs: dict[str, list[Job]], repeat: int) -> list[dict[str, Any]]:
    """One row for each setting: the sum over the processes of a run, in turns."""
    workers = {name: [Worker(job) for job in some] for name, some in jobs.items()}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for number in range(WARM_UP + repeat):
        for name, some in workers.items():
            found = [worker.ask("step")[0] for worker in some]
            if number >= WARM_UP:
                samples[name].append({key: sum(x[key] for x in found) for key in found[0]})
    rows = []
    for name, some in workers.items():
        peak = max(worker.ask("memory")[0]["peak"] for worker in some)
        middle = {
            key: statistics.median(sample[key] for sample in samples[name])
            for key in samples[name][0]
        }
        rows.append({"setting": name, "peak": peak, **middle, "samples": samples[name]})
        for worker in some:
            worker.stop()
    return rows


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", default=["plain", "kd"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    recipes = read_apart([name for name in args.runs if name != "plain"], REFERENCE)
    head = ["run", "setting", "s", "cpu s", "/ first", "faults", "peak RSS GB"]
    lines, kept = [], []
    for run in args.runs:
        names = PLAIN if run == "plain" else (run,)
        jobs = {
            setting: [
                Job(n, recipes.get(n), threads=args.threads, environment=SETTINGS[setting])
                for n in names
            ]
            for setting in args.settings
        }
        rows = measure(jobs, args.repeat)
        for row in rows:
            ratio = row["cpu"] / rows[0]["cpu"]
            line = [run, row["setting"], f"{row['seconds']:.3f}", f"{row['cpu']:.3f}"]
            lines.append(
                [*line, f"{ratio:.2f}", f"{row['faults']:,.0f}", f"{row['peak'] / 1e9:.2f}"]
            )
        kept += [{"run": run, **row} for row in rows]
        if args.out is not None:  # what there is, should the rest be interrupted
            save(args.out, {"machine": machine(), "threads": args.threads, "rows": kept})
    print(markdown(head, lines))


if __name__ == "__main__":
    main()
