"""The tables of a sweep: methods by tasks, the best configuration of each, and all runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from glmkd_nemo.report import html
from glmkd_nemo.tune.plan import Cell
from glmkd_nemo.tune.results import (
    NotRun,
    Result,
    Tried,
    configurations,
    ranking,
    read_not_run,
    seed_folder,
)

WORDS = 99  # no column of figures
INTRO = (
    "Written by scripts/tune.py. The task's main metric on the development set (shares in per "
    "cent), at the best step of each run: mean and sample standard deviation over seeds, for the "
    "best configuration of each method on each task. It was chosen on the same set: expect less "
    "on other data."
)
BEST_HEAD = ["task", "method", "metric", "mean ± std", "seeds", "step", "other metrics"]
TRIED_HEAD = ["task", "method", "mean ± std", "seeds"]


@dataclass(frozen=True)
class Sweep:
    """What is known of a sweep.

    Attributes:
        cells: tasks and methods with their configurations, best first.
        not_run: runs that failed or were left out.
        seeds: of every configuration.
    """

    cells: list[tuple[Cell, list[Tried]]]
    not_run: list[NotRun]
    seeds: list[int]


def collect(root: Path, cells: list[Cell], seeds: list[int]) -> Sweep:
    """Reads the results of `cells` below the folder of all runs."""
    found, not_run = [], []
    for cell in cells:
        tried = configurations(root, cell)
        found.append((cell, ranking(root, tried, seeds)))
        for configuration in tried:
            folders = [seed_folder(root, configuration, seed) for seed in seeds]
            notes = [read_not_run(root, folder) for folder in folders]
            not_run += [note for note in notes if note is not None]
    return Sweep(found, not_run, seeds)


def number(value: float, deviation: float | None, result: Result) -> str:
    """Shares as per cent; perplexities and the like as they are."""
    scale = 1 if result.lower_is_better or value > 1 else 100
    text = f"{scale * value:.2f}"
    return text if deviation is None else f"{text} ± {scale * deviation:.2f}"


def overview(sweep: Sweep, test: bool = False) -> tuple[list[str], list[list[str]]]:
    """Head and rows: methods by tasks, the best configuration's mean and deviation over seeds.

    The majority class has a row of its own, where runs tell what it gives.

    Args:
        sweep: what is known.
        test: of the test set, by the weights and configurations that are best on dev.
    """
    tasks = list(dict.fromkeys(cell.task for cell, _ in sweep.cells))
    methods = list(dict.fromkeys(cell.method for cell, _ in sweep.cells))
    best = {(cell.task, cell.method): ranked[0] for cell, ranked in sweep.cells if ranked}
    rows = []
    for method in methods:
        tried = [best.get((task, method)) for task in tasks]
        rows.append(_row(method, [_values_of(t, "test" if test else None) for t in tried], tried))
    any_of = {task: tried for (task, _), tried in best.items()}
    name = "test_majority" if test else "majority"
    lots = [any_of.get(task) for task in tasks]
    majority = _row("majority class", [_values_of(t, name)[:1] for t in lots], lots)
    if any(majority[1:]):
        rows.insert(0, majority)
    return ["method", *tasks, *(["average"] if len(tasks) > 1 else [])], rows


def _values_of(tried: Tried | None, name: str | None) -> list[float]:
    """One number per seed: the best on dev, or another one."""
    results = list(tried.results.values()) if tried else []
    if name is None:
        return [result.value for result in results]
    return [result.others[name] for result in results if name in result.others]


def _row(head: str, values: list[list[float]], tried: list[Tried | None]) -> list[str]:
    """Mean and deviation per task, and, of several tasks, the mean of shares."""
    row, means = [head], []
    for numbers, one in zip(values, tried, strict=True):
        if not numbers or one is None:
            row.append("")
            continue
        several = len(numbers) > 1
        row.append(number(fmean(numbers), stdev(numbers) if several else None, one.any_result))
        if not one.any_result.lower_is_better:
            means.append(fmean(numbers))
    if len(tried) == 1:
        return row
    return [*row, f"{100 * fmean(means):.2f}" if len(means) == len(tried) else ""]


def has_test(sweep: Sweep) -> bool:
    """Whether any run was measured on a test set."""
    return any(
        "test" in r.others for _, ranked in sweep.cells for t in ranked for r in t.results.values()
    )


def _score(tried: Tried) -> str:
    one = len(tried.results) == 1
    return number(tried.mean, None if one else tried.deviation, tried.any_result)


def best_rows(sweep: Sweep) -> list[list[str]]:
    """Under :data:`BEST_HEAD` and the keys of the space."""
    rows = []
    for cell, ranked in sweep.cells:
        if not ranked:
            rows.append([cell.task, cell.method, *[""] * (len(BEST_HEAD) - 2 + len(keys(sweep)))])
            continue
        tried = ranked[0]
        top = tried.results[tried.best_seed]
        others = ", ".join(
            f"{name} {number(value, None, top)}"
            for name, value in top.metrics.items()
            if name != top.metric
        )
        seeds = f"{len(tried.results)} of {len(sweep.seeds)}"
        row = [cell.task, cell.method, top.metric, _score(tried), seeds, str(top.step), others]
        rows.append([*row, *_values(tried, sweep)])
    return rows


def tried_rows(sweep: Sweep) -> list[list[str]]:
    """Under :data:`TRIED_HEAD` and the keys of the space: everything, best first in each cell."""
    return [
        [cell.task, cell.method, _score(tried), str(len(tried.results)), *_values(tried, sweep)]
        for cell, ranked in sweep.cells
        for tried in ranked
    ]


def run_rows(sweep: Sweep) -> list[list[str]]:
    """Every finished run, with its head: numbers in full, for other programs."""
    head = ["task", "method", "seed", "metric", "value", "step", "seconds", "folder", *keys(sweep)]
    rows = [head]
    for cell, ranked in sweep.cells:
        for tried in ranked:
            for seed, result in tried.results.items():
                row = [cell.task, cell.method, str(seed), result.metric, repr(result.value)]
                row += [str(result.step), f"{result.seconds:.1f}"]
                row += [f"{tried.configuration.key}/seed{seed}", *_values(tried, sweep)]
                rows.append(row)
    return rows


def keys(sweep: Sweep) -> list[str]:
    """All keys that are tuned in any cell."""
    return list(dict.fromkeys(key for cell, _ in sweep.cells for key in cell.space))


def _values(tried: Tried, sweep: Sweep) -> list[str]:
    return [str(tried.configuration.values.get(key, "")) for key in keys(sweep)]


def write(sweep: Sweep, out: Path, facts: dict[str, str]) -> None:
    """``tune.html``, ``tune.md`` (the overview) and ``runs.tsv`` in `out`."""
    head, rows = overview(sweep)
    failed = [[note.key, note.reason, note.log] for note in sweep.not_run if note.failed]
    left_out = [[note.key, note.reason] for note in sweep.not_run if not note.failed]
    best = html.table([*BEST_HEAD, *keys(sweep)], best_rows(sweep), WORDS)
    tried = html.table([*TRIED_HEAD, *keys(sweep)], tried_rows(sweep), WORDS)
    body = [html.table(head, rows, 1)]
    if has_test(sweep):
        body += [html.heading("The same on the test set"), html.table(*overview(sweep, True), 1)]
    body += [html.heading("Best configurations"), _wide(best)]
    if failed:
        body += [html.heading("Failed"), html.table(["run", "reason", "log"], failed, WORDS)]
    if left_out:
        body += [html.heading("Left out"), html.table(["run", "reason"], left_out, WORDS)]
    body += [html.heading("All configurations"), _wide(tried)]
    body += [html.heading("What was run"), html.facts(facts)]
    html.write_page(out / "tune.html", "Tuning", INTRO, body)
    lines = [head, ["---", *["---:" for _ in head[1:]]], *rows]
    markdown = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (out / "tune.md").write_text(markdown, encoding="utf-8")
    text = "".join("\t".join(row) + "\n" for row in run_rows(sweep))
    (out / "runs.tsv").write_text(text, encoding="utf-8")


def _wide(table: str) -> str:
    return f'<div style="overflow-x: auto">{table}</div>'
