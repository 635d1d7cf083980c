"""The page of a fine-tuning run: metrics, their course, and what was mistaken for what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkd_nemo.report import html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTRO = (
    "Written by scripts/finetune.py. Metrics are of the development set; the best weights are "
    "those of the evaluation with the best main metric."
)


def write_run_page(outcome: Mapping[str, Any], path: Path) -> None:
    """Writes the page of a run.

    Args:
        outcome: what ``results.json`` holds.
        path: the page.
    """
    names = list(outcome["best"]["metrics"])
    rows = [
        [label, step, *(f"{metrics[name]:.4f}" if name in metrics else "" for name in names)]
        for label, step, metrics in _evaluations(outcome)
    ]
    body = [
        html.table(["evaluation", "step", *names], rows, 1),
        html.drawing(curves(outcome), "metrics by step"),
    ]
    if matrix := outcome.get("confusion"):
        body += [html.heading("Labels (rows) and answers (columns), best weights"), _table(matrix)]
    facts = ("task", "method", "seed", "parameters", "steps", "seconds", "command")
    body += [html.heading("What was run"), html.facts({name: outcome[name] for name in facts})]
    html.write_page(path, f"{outcome['task']}: {outcome['method']}", INTRO, body)


def _evaluations(outcome: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float]]]:
    """What was evaluated, at which step, and the metrics."""
    best, final, test = outcome["best"], outcome["final"], outcome.get("test") or {}
    rows = [
        ("best", str(best["step"]), best["metrics"]),
        ("last", str(final["step"]), final["metrics"]),
        ("majority class", "", outcome.get("baseline")),
        ("test set, best weights", str(best["step"]), test.get("metrics")),
        ("test set, majority class", "", test.get("baseline")),
    ]
    return [(label, step, metrics) for label, step, metrics in rows if metrics]


def curves(outcome: Mapping[str, Any]) -> Figure:
    """Every metric over the steps, a mark at the best evaluation."""
    from matplotlib.figure import Figure

    history, best = outcome["history"], outcome["best"]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for name in best["metrics"]:
        steps = [row["step"] for row in history]
        axes.plot(steps, [row["metrics"][name] for row in history], marker=".", label=name)
    main = outcome["main_metric"]
    axes.plot(best["step"], best["metrics"][main], "k*", markersize=11, label=f"best {main}")
    axes.set_xlabel("optimizer step")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _table(confusion: Mapping[str, Any]) -> str:
    labels = [str(label) for label in confusion["labels"]]
    rows = [
        [label, *(str(count) for count in row)]
        for label, row in zip(labels, confusion["counts"], strict=True)
    ]
    return html.table(["label", *labels], rows, 1)
