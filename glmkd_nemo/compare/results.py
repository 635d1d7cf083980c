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
        student: its size, "layers x width".
        learns: the terms of its objective, in words.
        loss: mean cross entropy per blank token on the test text, in nats.
        accuracy: share of blank tokens of the test text predicted exactly, 0-1.
        step_seconds: mean time of a training step, teachers included.
    """

    label: str
    student: str
    learns: str
    loss: float
    accuracy: float
    step_seconds: float


@dataclass(frozen=True)
class Comparison:
    """All students, beside those without a teacher and the teacher.

    Attributes:
        teacher: the demo's teacher.
        scratch: students trained with labels only, one of each size.
        rows: the recipes that were trained.
        refused: why a recipe was not, by label.
        facts: what was run.
    """

    teacher: Row
    scratch: list[Row]
    rows: list[Row]
    refused: dict[str, str]
    facts: dict[str, str]

    def gain(self, row: Row) -> float:
        """Loss of `row` minus that of the like student with labels only (below 0: better)."""
        return row.loss - next(s.loss for s in self.scratch if s.student == row.student)

    def ranked(self) -> list[Row]:
        """The recipes, best first."""
        return sorted(self.rows, key=self.gain)

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
