"""The page ``tests/PARITY.md``: worst errors by method and layout; file and paper by method."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.compare import TOLERANCE
from glmkd_nemo.replay.parity import Worst

DISTILL = Path(__file__).resolve().parents[1] / "distill"
HALF = "bf16"
Found = Mapping[str, Mapping[str, Worst]]  # by layout and case
_INTRODUCTION = """\
# Parity with the reference

Written by `python scripts/parity.py {folder}`; not to be edited by hand.

Every case whose name has `readme` (the reference's recipes; for a method without one its first
counted case) is replayed in every layout: one forward and backward from recorded weights and
inputs. An entry is the largest relative error of loss, components and gradients over the method's
cases, against the numbers that the reference gave in one process in fp32; the tolerance is
{tolerance:.0e}. `*`: cases whose fp32 conditioning makes that unreachable were run in float64.
In bf16, weights and activations have 8 bits of mantissa, and the numbers are still compared with
those of fp32: the worst of loss and components, and the worst of a gradient (of those above the
last digit of the whole gradient; sums that cancel lose most).
"""


def write(path: Path, folder: str, cases: Mapping[str, list[Case]], found: Found) -> None:
    """Writes the page.

    Args:
        path: of the page.
        folder: the cases' folder as the user gave it.
        cases: by method.
        found: worst errors by layout and case name.
    """
    text = _INTRODUCTION.format(folder=folder, tolerance=TOLERANCE)
    path.write_text(
        "\n".join([text, *errors_table(cases, found), "", *papers_table(), ""]), encoding="utf-8"
    )


def failures(found: Found) -> list[str]:
    """Cases beyond the tolerance, or refused, in a layout of full precision."""
    return [
        f"{name} ({layout}): {worst.refused or f'{worst.error:.1e}'}"
        for layout, by_case in found.items()
        for name, worst in by_case.items()
        if layout != HALF and (worst.refused or not worst.error <= TOLERANCE)
    ]


def errors_table(cases: Mapping[str, list[Case]], found: Found) -> list[str]:
    """Lines of the table method x layout."""
    lines = [f"| method | cases | {' | '.join(found)} |", f"|---|{'---:|' * (len(found) + 1)}"]
    notes: list[str] = []
    for method, own in cases.items():
        cells = []
        for layout, by_case in found.items():
            mine = [by_case[case.name] for case in own]
            refused = sorted({worst.refused for worst in mine if worst.refused})
            notes += [reason for reason in refused if reason not in notes]
            marks = "".join(f"[{notes.index(reason) + 1}]" for reason in refused)
            cells.append((_cell(layout, [w for w in mine if not w.refused]) + " " + marks).strip())
        lines.append(f"| {method} | {len(own)} | {' | '.join(cells)} |")
    return [*lines, "", *(f"[{i}] refused: {reason}" for i, reason in enumerate(notes, 1))]


def _cell(layout: str, worst: list[Worst]) -> str:
    if not worst:
        return ""
    if layout == HALF:
        return f"{max(w.values for w in worst):.0e}, {max(w.gradients for w in worst):.0e}"
    star = "*" if any(w.in_float64 for w in worst) else ""
    return f"{max(w.error for w in worst):.1e}{star}"


def papers_table() -> list[str]:
    """Lines of the table method, file, lines, paper."""
    lines = ["| method | file | lines | paper |", "|---|---|---:|---|"]
    for folder in ("methods", "aggregators"):
        for path in sorted((DISTILL / folder).glob("[!_]*.py")):
            text = path.read_text(encoding="utf-8")
            place = f"`glmkd_nemo/distill/{folder}/{path.name}`"
            papers = ", ".join(papers_in(ast.get_docstring(ast.parse(text)) or ""))
            lines.append(f"| {path.stem} | {place} | {text.count(chr(10))} | {papers} |")
    return lines


def papers_in(docstring: str) -> list[str]:
    """Papers that a docstring names, as links: arXiv numbers, or DOIs."""
    numbers = re.findall(r"arXiv (\d{4}\.\d{4,5})", docstring)
    dois = re.findall(r"\b10\.\d{4,}/[\w./-]*\w", docstring)
    links = [f"[arXiv {n}](https://arxiv.org/abs/{n})" for n in dict.fromkeys(numbers)]
    return links + [f"[doi {d}](https://doi.org/{d})" for d in dict.fromkeys(dois)]
