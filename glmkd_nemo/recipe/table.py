"""What a run of recipes prints at its end, and writes as ``recipe.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from glmkd_nemo.recipe.plan import Recipe
from glmkd_nemo.recipe.record import Note

HEAD = ("recipe", "stages", "seconds", "final loss", "score")
Found = tuple[Recipe, dict[str, Note], str]  # recipe, its stages, what went wrong


def rows(found: Sequence[Found]) -> list[list[str]]:
    """A row for each stage of one recipe; of several, one for each, with its last loss."""
    if len(found) == 1:
        recipe, notes, _ = found[0]
        return [_row(stage.name, "1", [notes[stage.name]]) for stage in recipe.stages if notes]
    lines = []
    for recipe, notes, error in found:
        many = [notes[stage.name] for stage in recipe.stages if stage.name in notes]
        count = str(len(recipe.stages))
        lines.append(
            [recipe.name, count, "failed", "", ""] if error else _row(recipe.name, count, many)
        )
    return lines


def _row(name: str, count: str, notes: Sequence[Note]) -> list[str]:
    last = notes[-1]
    loss = "" if last.loss is None else f"{last.loss:.4f}"
    score = "" if last.score is None else f"{last.metric} {last.score:.4f}"
    return [name, count, f"{sum(note.seconds for note in notes):.1f}", loss, score]


def print_table(found: Sequence[Found], out: Path) -> None:
    """Prints the rows, and writes them beside the (first) recipe's stages."""
    head = HEAD if len(found) > 1 else ("stage", *HEAD[1:])
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number in (0, 4) else "right")
    lines = rows(found)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    page = (out if len(found) == 1 else out.parent) / "recipe.md"
    text = [f"| {' | '.join(line)} |" for line in [list(head), ["---"] * len(head), *lines]]
    page.write_text("\n".join(text) + "\n", encoding="utf-8")
