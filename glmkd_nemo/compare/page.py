"""One page: a bar chart and a table of all students, best first."""

from __future__ import annotations

import io
from pathlib import Path

from glmkd_nemo.compare.results import Comparison, Row
from glmkd_nemo.demo.plots import COLOURS
from glmkd_nemo.report import html

INTRO = (
    "Written by scripts/compare_methods.py. Each student has the same size, start, batches and "
    "number of steps; loss and accuracy are on text that none was trained on."
)
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
    body = [
        html.picture(bars(found), "difference of held-out loss to the student with labels only"),
        html.table(HEAD, [cells(found, row) for row in all_rows(found)], 3),
    ]
    if found.refused:
        rows = [[name, why] for name, why in found.refused.items()]
        body += [html.heading("Not trained"), html.table(["recipe", "reason"], rows, 9)]
    body += [html.heading("What was run"), html.listed(NOTES), html.facts(found.facts)]
    html.write_page(path, "Distillation methods compared", INTRO, body)


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
