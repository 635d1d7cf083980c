"""``report.html``: one page, self-contained (pictures inside), from the numbers of a run."""

from __future__ import annotations

from pathlib import Path
from string import Template

from glmkd_nemo.demo import plots
from glmkd_nemo.demo.findings import describe
from glmkd_nemo.demo.results import Results
from glmkd_nemo.report.html import items, picture, table

_TEMPLATE = Path(__file__).with_name("report.html")


def write_report(results: Results, path: Path) -> None:
    """Write the page of `results` to `path` (UTF-8 HTML without outside references).

    Raises:
        ValueError: fewer than two rows in `results`.
    """
    page = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        findings=items(describe(results)),
        table=_models(results),
        curves=picture(plots.loss_curves(results), "held-out loss during training"),
        bars=picture(plots.bars(results), "held-out loss, accuracy and step time"),
        candidates=_candidates(results),
        blanks=_blanks(results),
        corpus=_pairs(results.corpus),
        settings=_pairs(results.settings),
        versions=_pairs(results.versions),
        notes=items(results.notes),
        minutes=f"{results.seconds / 60:.1f}",
    )
    path.write_text(page, encoding="utf-8")


def _models(results: Results) -> str:
    head = ["model", "parameters", "steps", "held-out loss", "accuracy on blanks", "step time"]
    body = [
        [
            row.label,
            f"{row.parameters:,}",
            str(row.steps),
            f"{row.loss:.3f}",
            f"{100 * row.accuracy:.1f} %",
            f"{1000 * row.step_seconds:.0f} ms",
        ]
        for row in results.rows
    ]
    return table(head, body, 1)


def _candidates(results: Results) -> str:
    if not results.candidates:
        return "<p>No GLMD run in this report.</p>"
    head = ["stage 1 (teacher only)", "stage 2", "stage 2 with", "validation loss", "chosen"]
    body = [
        [
            f"{c.first} steps",
            f"{c.second} steps",
            c.second_kind,
            f"{c.loss:.3f}",
            "yes" if c.chosen else "",
        ]
        for c in results.candidates
    ]
    return table(head, body, 5)


def _blanks(results: Results) -> str:
    if not results.blanks:
        return ""
    models = list(results.blanks[0].answers)
    body = [[b.text, b.truth, *[b.answers[name] for name in models]] for b in results.blanks]
    return table(["sentence", "the text had", *models], body, 99)


def _pairs(values: dict[str, str]) -> str:
    return table(["", ""], [[name, value] for name, value in values.items()], 9)
