"""The report's pictures, as PNG bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from glmkd_nemo.demo.results import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _curves(axes: Axes, rows: list[Row], teacher: Row, first_style: int) -> None:
    for index, row in enumerate(rows):
        axes.plot(
            row.curve.steps,
            row.curve.loss,
            label=row.label,
            markersize=3.5,
            linewidth=1.4,
            **_style(index + first_style),
        )
    if teacher not in rows:
        level = teacher.curve.loss[-1]
        axes.axhline(level, color=COLOURS[0], linewidth=1, linestyle=":")
        axes.annotate(
            "teacher, trained", (0.99, level), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", fontsize=8,
        )  # fmt: skip
    axes.set_xlabel("training step")
    axes.set_ylabel("loss on validation text (nats per blank token)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def loss_curves(results: Results) -> bytes:
    """Held-out loss while training: left all models, right the last part of the students' runs."""
    from matplotlib.figure import Figure

    teacher, *students = results.rows
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, results.rows, teacher, 0)
    left.set_title("all models", fontsize=10)
    half = [Row(**{**vars(row), "curve": type(row.curve)(*_second_half(row))}) for row in students]
    _curves(right, half, teacher, 1)
    right.set_title("students, second half of their training", fontsize=10)
    return _png(figure)


def _second_half(row: Row) -> tuple[list[int], list[float]]:
    kept = [
        (s, v) for s, v in zip(row.curve.steps, row.curve.loss, strict=True) if 2 * s >= row.steps
    ]
    return [s for s, _ in kept], [v for _, v in kept]


def bars(results: Results) -> bytes:
    """Held-out loss, accuracy and step time of each model, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6), layout="constrained")
    panels = (
        ("held-out loss", [r.loss for r in results.rows], "{:.3f}", True),
        ("accuracy on blanks, %", [100 * r.accuracy for r in results.rows], "{:.1f}", False),
        ("time of a step, ms", [1000 * r.step_seconds for r in results.rows], "{:.0f}", False),
    )
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(results.rows))]
    names = [row.label for row in results.rows]
    for axes, (title, values, form, zoom) in zip(figure.subplots(1, 3), panels, strict=True):
        drawn = axes.barh(names, values, color=colours, height=0.6)
        axes.bar_label(drawn, labels=[form.format(v) for v in values], padding=3, fontsize=8)
        low, high = min(values), max(values)
        start = low - (high - low or low) if zoom else 0.0
        axes.set_xlim(start, high + 0.25 * (high - start))
        axes.set_title(title + (" (axis cut; lower is better)" if zoom else ""), fontsize=9)
        axes.invert_yaxis()
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if axes is not figure.axes[0]:
            axes.set_yticklabels([])
    return _png(figure)
