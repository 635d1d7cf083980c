"""One page: a bar chart and a table of all students, best first."""

from __future__ import annotations

import io
from pathlib import Path
from string import Template

from glmkd_nemo.compare.results import Comparison, Row
from glmkd_nemo.demo.page import items, picture, table
from glmkd_nemo.demo.plots import COLOURS

_TEMPLATE = Path(__file__).with_name("page.html")
HEAD = ["recipe", "student", "learns from", "loss", "to labels only", "accuracy", "step"]
NOTES = [
    "Recipes are those of conf/method and conf/aggregator, with the options of conf/compare.yaml. "
    "One without labels and soft labels is followed by KD (soft and hard labels), see there.",
    "A method that compares widths as they are has a student as wide as the teacher, which is "
    "compared with one of that width.",
    "Loss is in nats per blank token; accuracy is the share of blank tokens whose most likely "
    "prediction is right. A step's time includes the teachers' forward passes.",
    "One text, one seed, small models, few steps: this shows that each method trains, and what it "
    "did here. Differences below 0.02 nats are within what another seed changes.",
]


def write_page(found: Comparison, path: Path) -> None:
    """Writes the page to `path` (UTF-8 HTML without outside references)."""
    refused = ""
    if found.refused:
        refused = "<h2>Not trained</h2>" + table(
            ["recipe", "reason"], [[name, why] for name, why in found.refused.items()], 9
        )
    page = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        bars=picture(bars(found), "difference of held-out loss to the student with labels only"),
        table=table(HEAD, [cells(found, row) for row in all_rows(found)], 3),
        refused=refused,
        notes=items(NOTES),
        facts=table(["", ""], [[name, value] for name, value in found.facts.items()], 9),
    )
    path.write_text(page, encoding="utf-8")


def all_rows(found: Comparison) -> list[Row]:
    """The teacher, students with labels only, then all others, best first."""
    return [found.teacher, *found.scratch, *found.ranked()]


def cells(found: Comparison, row: Row) -> list[str]:
    """A row of the table, under :data:`HEAD`."""
    return [
        row.label,
        row.student,
        row.learns,
        f"{row.loss:.3f}",
        f"{found.gain(row):+.3f}" if row in found.rows else "",
        f"{100 * row.accuracy:.1f} %",
        f"{1000 * row.step_seconds:.0f} ms",
    ]


def bars(found: Comparison) -> bytes:
    """Difference of held-out loss to the like student with labels only, as PNG."""
    from matplotlib.figure import Figure

    rows = found.ranked()
    figure = Figure(figsize=(9, 1.2 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    gains = [found.gain(row) for row in rows]
    colours = [COLOURS[2] if gain < 0 else COLOURS[1] for gain in gains]
    drawn = axes.barh([_named(found, row) for row in rows], gains, color=colours, height=0.7)
    axes.bar_label(drawn, labels=[f"{gain:+.3f}" for gain in gains], padding=3, fontsize=8)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_xlabel("held-out loss, difference to labels only (nats; left: better)")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _named(found: Comparison, row: Row) -> str:
    return row.label if row.student == found.scratch[0].student else f"{row.label}, {row.student}"
