"""Whether memory stays flat over 1,000 micro-batches of distillation.

    python scripts/bench/growth.py [--methods kd glmd tinybert minilm | all] [--micro-batches 1000]
        [--layout tp1] [--out FILE.json]

Small models (student 4 x 64, teacher 8 x 64), 10 micro-batches of 2 samples to an optimizer step.
After every 100 micro-batches: resident memory and the number of living tensors (of the largest
rank), or the GPU's allocated memory. The slope is of the second half, when allocators have settled.
Prints a table in Markdown, writes JSON and a plot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

from scripts.bench.recipes import Recipe, groups, read_apart
from scripts.bench.results import machine, markdown, png, save
from scripts.bench.sizes import SMALL
from scripts.bench.workers import LAYOUTS, Job, Worker

PER_STEP, POINTS = 10, 10
SIZE = replace(SMALL, batch=2 * PER_STEP)
MB = 1e6


def grown(recipe: Recipe, layout: str, micro_batches: int) -> dict[str, Any]:
    """Memory and tensors after each tenth of the micro-batches."""
    worker = Worker(Job(recipe.name, recipe, SIZE, 1, layout, PER_STEP))
    steps = micro_batches // PER_STEP // POINTS
    points = []
    for number in range(1, POINTS + 1):
        ranks = worker.ask("grow", steps)
        largest = {key: max(rank[key] for rank in ranks) for key in ranks[0]}
        points.append({"micro_batches": number * steps * PER_STEP, **largest})
    worker.stop()
    later = points[POINTS // 2 :]
    slopes = {key: slope(later, key) for key in ("resident", "tensors", "gpu")}
    return {"name": recipe.name, "layout": layout, "points": points, "slope": slopes}


def slope(points: Sequence[dict[str, float]], key: str) -> float:
    """Least-squares growth per 1,000 micro-batches."""
    x = [point["micro_batches"] / 1000 for point in points]
    y = [point[key] for point in points]
    mean = sum(x) / len(x)
    over = sum((a - mean) ** 2 for a in x)
    return sum((a - mean) * b for a, b in zip(x, y, strict=True)) / over


def curves(rows: Sequence[dict[str, Any]]) -> bytes:
    """Resident memory and tensors beyond those at the first point; PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, key, unit, label in (
        (left, "resident", MB, "resident memory, MB more than at first"),
        (right, "tensors", 1, "living tensors, more than at first"),
    ):
        for row in rows:
            points = row["points"]
            x = [point["micro_batches"] for point in points]
            y = [(point[key] - points[0][key]) / unit for point in points]
            axes.plot(x, y, marker=".", label=f"{row['name']} ({row['layout']})")
        axes.axhline(0.0, color="black", linewidth=1)
        axes.set_xlabel("micro-batches")
        axes.set_ylabel(label)
    right.legend(fontsize=6)
    return png(figure)


def main() -> None:
    """Measures, prints the table, writes the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["kd", "glmd", "tinybert", "minilm"])
    parser.add_argument("--micro-batches", type=int, default=1000)
    parser.add_argument("--layout", nargs="+", default=["tp1"], choices=list(LAYOUTS))
    parser.add_argument("--out", type=Path, help="JSON; the plot gets the same name with .png")
    args = parser.parse_args()
    if args.micro_batches < PER_STEP * POINTS:
        parser.error(f"--micro-batches must be at least {PER_STEP * POINTS}")
    names = list(groups()) if args.methods == ["all"] else args.methods
    recipes = read_apart(names, SIZE).values()
    rows = [grown(r, layout, args.micro_batches) for layout in args.layout for r in recipes]
    head = ["run", "layout", "first MB", "last MB", "MB / 1,000", "tensors", "tensors / 1,000"]
    lines = []
    for row in rows:
        first, last, rate = row["points"][0], row["points"][-1], row["slope"]
        key = "gpu" if last["gpu"] else "resident"
        line = [row["name"], row["layout"], f"{first[key] / MB:.1f}", f"{last[key] / MB:.1f}"]
        line += [f"{rate[key] / MB:.2f}", f"{last['tensors']:.0f}", f"{rate['tensors']:.1f}"]
        lines.append(line)
    print(markdown(head, lines))
    if args.out is not None:
        save(args.out, {"machine": machine(), "rows": rows})
        args.out.with_suffix(".png").write_bytes(curves(rows))


if __name__ == "__main__":
    main()
