"""`scripts/parity.py`: which cases it replays, what its tables say, and when it fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmkd_nemo.distill.methods import NAMES
from glmkd_nemo.replay.parity import LAYOUTS, Layout, Worst, cases_of, measure
from glmkd_nemo.replay.parity_table import errors_table, failures, papers_in, papers_table, write

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.timeout(400)


def test_recipes_are_chosen_by_method():
    found = cases_of(HERE)
    assert [case.folder.name for case in found["glmd"]] == ["logitsdistil_readme"]
    assert "tinybert_readme" in [case.folder.name for case in found["tinybert"]]
    assert all("readme" in case.folder.name for case in found["kd"])
    assert not any(case.excluded for cases in found.values() for case in cases)


def test_a_folder_without_cases_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="has no cases"):
        cases_of(tmp_path)


def case(name: str) -> Any:
    return SimpleNamespace(name=name)


CASES = {"kd": [case("a"), case("b")], "sid": [case("c")]}
FOUND = {
    "TP2": {
        "a": Worst(1e-6, 2e-6),
        "b": Worst(3e-7, 1e-7, in_float64=True),
        "c": Worst(2e-5, 0.0),
    },
    "PP2": {"a": Worst(1e-7, 1e-7), "b": Worst(1e-7, 2e-7), "c": Worst(refused="no way")},
    "bf16": {"a": Worst(1e-3, 1e-2), "b": Worst(2e-3, 1e-3), "c": Worst(1e-3, 1.0)},
}


def test_an_entry_is_the_worst_of_all_cases():
    lines = errors_table(CASES, FOUND)  # type: ignore[arg-type]
    assert lines[0] == "| method | cases | TP2 | PP2 | bf16 |"
    assert lines[2] == "| kd | 2 | 2.0e-06* | 2.0e-07 | 2e-03, 1e-02 |"
    assert lines[3] == "| sid | 1 | 2.0e-05 | [1] | 1e-03, 1e+00 |"
    assert lines[-1] == "[1] refused: no way"


def test_what_counts_as_failure():
    assert failures(FOUND) == ["c (TP2): 2.0e-05", "c (PP2): no way"]  # never bf16
    assert failures({"TP2": {"a": Worst(float("nan"), 0.0)}}) == ["a (TP2): nan"]


def test_papers_are_found_in_docstrings():
    text = "X (arXiv 1909.10351, section 3). Y (ACL, 10.18653/v1/2022.acl-long.71, section 3)."
    assert papers_in(text) == [
        "[arXiv 1909.10351](https://arxiv.org/abs/1909.10351)",
        "[doi 10.18653/v1/2022.acl-long.71](https://doi.org/10.18653/v1/2022.acl-long.71)",
    ]


def test_every_method_has_its_line_in_the_table():
    rows = [line.split(" | ") for line in papers_table()]
    by_name = {row[0].removeprefix("| "): row for row in rows}
    assert set(NAMES) <= by_name.keys()
    for name in NAMES:
        _, file, lines, _ = by_name[name]
        assert file == f"`glmkd_nemo/distill/methods/{name}.py`"
        assert int(lines) <= 80, name


def test_the_page(tmp_path: Path):
    write(tmp_path / "PARITY.md", "cases", CASES, FOUND)  # type: ignore[arg-type]
    text = (tmp_path / "PARITY.md").read_text()
    assert text.startswith("# Parity with the reference\n")
    assert "python scripts/parity.py cases" in text
    assert "| sid | 1 |" in text


@pytest.mark.slow
def test_a_layout_is_measured():
    cases = cases_of(HERE)["kd"][:1]
    tp2 = next(layout for layout in LAYOUTS if layout.name == "TP2")
    found = measure(cases, tp2)[cases[0].name]
    assert found.refused is None
    assert 0 < found.error <= 1e-5
    half = measure(cases, Layout("bf16", dtype="bfloat16"))[cases[0].name]
    assert 1e-4 < half.error < 1
