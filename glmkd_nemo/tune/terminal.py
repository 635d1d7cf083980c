"""What tuning prints at its end."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from glmkd_nemo.tune.report import Sweep, best_rows, has_test, keys, overview


def print_tables(sweep: Sweep, page: Path) -> None:
    """Methods by tasks, the best configurations, and what failed, on the terminal."""
    console = Console()
    head, rows = overview(sweep)
    _print(console, head, rows, 1)
    if has_test(sweep):
        console.print("\nTest set, by the weights that are best on dev:", highlight=False)
        _print(console, *overview(sweep, test=True), 1)
    chosen = [[row[0], row[1], row[4], *row[7:]] for row in best_rows(sweep)]
    _print(console, ["task", "method", "seeds", *keys(sweep)], chosen, 2)
    for note in sweep.not_run:
        if note.failed:
            text = f"failed: {note.key}: {note.reason}\n  {note.log}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\npage: {page}", markup=False, highlight=False, soft_wrap=True)


def _print(console: Console, head: list[str], rows: list[list[str]], numeric_from: int) -> None:
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number >= numeric_from else "left")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)
