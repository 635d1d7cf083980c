"""The page of a fine-tuning run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmkd_nemo.report.run import write_run_page

OUTCOME: dict[str, Any] = {
    "task": "cb",
    "method": "hard <labels>",
    "seed": 1,
    "main_metric": "average",
    "best": {"step": 4, "metrics": {"accuracy": 0.75, "average": 0.5125}},
    "final": {"step": 8, "metrics": {"accuracy": 0.5, "average": 0.25}},
    "history": [{"step": s, "metrics": {"accuracy": 0.5, "average": 0.25}} for s in (0, 4, 8)],
    "confusion": {"labels": ["yes", "no"], "counts": [[3, 1], [0, 4]]},
    "baseline": {"accuracy": 0.4375, "average": 0.3},
    "test": {"metrics": {"accuracy": 0.6875, "average": 0.4}, "baseline": None},
    "parameters": 1234,
    "steps": 8,
    "seconds": 1.5,
    "command": "scripts/finetune.py task=cb",
}


def test_the_page_has_what_was_found(tmp_path: Path) -> None:
    write_run_page(OUTCOME, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for piece in ("0.5125", "majority class", "0.4375", "test set, best weights", "0.6875"):
        assert piece in text
    assert "test set, majority class" not in text
    assert "hard &lt;labels&gt;" in text
    assert '<td>yes</td><td class="n">3</td><td class="n">1</td>' in text
    assert text.count("data:image/png") == 1


def test_a_run_without_labels_to_confuse(tmp_path: Path) -> None:
    plain = {**OUTCOME, "confusion": None, "baseline": None, "test": None}
    write_run_page(plain, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "answers (columns)" not in text
    assert "test set" not in text
