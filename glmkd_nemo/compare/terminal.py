"""What the comparison prints at its end."""

from __future__ import annotations

from pathlib import Path

from glmkd_nemo.compare.page import HEAD, all_rows, cells
from glmkd_nemo.compare.results import Comparison


def print_table(found: Comparison, page: Path) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(HEAD):
        table.add_column(head, justify="right" if number > 2 else "left", no_wrap=number != 2)
    for row in all_rows(found):
        table.add_row(*cells(found, row))
    console.print(table)
    for name, reason in found.refused.items():
        console.print(f"not trained: {name}: {reason}", markup=False, highlight=False)
    console.print(f"\npage: {page}", markup=False, highlight=False, soft_wrap=True)
