"""``report.html``: one page, self-contained (pictures inside), from the numbers of a run."""

from __future__ import annotations

from pathlib import Path

from glmkd_nemo.demo import plots
from glmkd_nemo.demo.findings import describe
from glmkd_nemo.demo.results import Results
from glmkd_nemo.report import html

_STAGES = (
    "GLMD first learns the teacher's outputs without labels, then a stage with labels follows. All "
    "splits use the same number of steps; the one with the lowest loss on the validation text was "
    "kept and measured on the test text, which took no part in the choice."
)
_BLANKS = (
    "Greedy choice, token by token. Models of this size and training know little; the point is "
    "that teacher and student can be compared."
)


def write_report(results: Results, path: Path) -> None:
    """Write the page of `results` to `path` (UTF-8 HTML without outside references).

    Raises:
        ValueError: fewer than two rows in `results`.
    """
    curves = html.picture(plots.loss_curves(results), "held-out loss during training")
    bars = html.picture(plots.bars(results), "held-out loss, accuracy and step time")
    what = [results.corpus, results.settings, results.versions]
    body = [html.heading("What is seen"), html.listed(describe(results)), _models(results), bars]
    body += [html.heading("Held-out loss during training"), curves]
    body += [html.heading("GLMD: how long each stage"), html.paragraph(_STAGES)]
    body += [_candidates(results), html.heading("Blanks filled"), html.paragraph(_BLANKS)]
    body += [_blanks(results), html.heading("What was run"), html.listed(results.notes)]
    body.append(html.side_by_side([html.facts(values) for values in what]))
    intro = f"Written by make demo in {results.seconds / 60:.1f} minutes."
    html.write_page(path, "A small GLM, distilled", intro, body)


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
    return html.table(head, body, 1)


def _candidates(results: Results) -> str:
    if not results.candidates:
        return html.paragraph("No GLMD run in this report.")
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
    return html.table(head, body, 5)


def _blanks(results: Results) -> str:
    if not results.blanks:
        return ""
    models = list(results.blanks[0].answers)
    body = [[b.text, b.truth, *[b.answers[name] for name in models]] for b in results.blanks]
    return html.table(["sentence", "the text had", *models], body, 99)
