"""What the demo prints."""

from __future__ import annotations

from pathlib import Path

from glmkd_nemo.demo.results import Results


def print_line(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)


def print_table(results: Results, out: Path) -> None:
    """The table and the filled blanks on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("model", box=None, pad_edge=False)
    for head in ("parameters", "held-out loss", "accuracy", "step"):
        table.add_column(head, justify="right")
    for row in results.rows:
        table.add_row(
            row.label,
            f"{row.parameters:,}",
            f"{row.loss:.3f}",
            f"{100 * row.accuracy:.1f} %",
            f"{1000 * row.step_seconds:.0f} ms",
        )
    console.print(table)
    for blank in results.blanks:
        console.print(f"\n{blank.text}", style="bold", markup=False, highlight=False)
        for label, answer in [("the text had", blank.truth), *blank.answers.items()]:
            console.print(f"  {label:<32} {answer}", markup=False, highlight=False)
    console.print(f"\nreport: {out}", markup=False, highlight=False, soft_wrap=True)
