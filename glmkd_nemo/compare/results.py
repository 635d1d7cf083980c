"""What a comparison measured, as plain data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One student.

    Attributes:
        label: what the reader sees.
        learns: the terms of its objective, in words.
        loss: mean cross entropy per blank token on the test text, in nats.
        accuracy: share of blank tokens of the test text predicted exactly, 0-1.
        step_seconds: mean time of a training step, teachers included.
    """

    label: str
    learns: str
    loss: float
    accuracy: float
    step_seconds: float


@dataclass(frozen=True)
class Comparison:
    """All rows, best first, beside the student without a teacher and the teacher.

    Attributes:
        scratch: the student trained with labels only.
        teacher: the demo's teacher.
        rows: the recipes that were trained.
        refused: why a recipe was not, by label.
        facts: what was run.
    """

    scratch: Row
    teacher: Row
    rows: list[Row]
    refused: dict[str, str]
    facts: dict[str, str]

    def gain(self, row: Row) -> float:
        """Loss of `row` minus that of the student without a teacher (below 0: better)."""
        return row.loss - self.scratch.loss

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
