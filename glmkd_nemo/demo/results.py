"""What the demo measured, as plain data: written to ``results.json``, read by the report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Curve:
    """Held-out loss (nats per blank token) after so many steps of training."""

    steps: list[int]
    loss: list[float]


@dataclass(frozen=True)
class Row:
    """One model of the table.

    Attributes:
        name: key of the run (also its folder).
        label: what the reader sees.
        parameters: trainable numbers of the model.
        steps: optimizer steps in all.
        loss: mean cross entropy per blank token on the test text, in nats.
        accuracy: share of blank tokens of the test text predicted exactly (the blank's earlier
            tokens given), 0-1.
        step_seconds: mean time of one training step, the teacher's forward included.
        curve: held-out loss during training.
    """

    name: str
    label: str
    parameters: int
    steps: int
    loss: float
    accuracy: float
    step_seconds: float
    curve: Curve


@dataclass(frozen=True)
class Candidate:
    """One split of GLMD's steps into its two stages, with the validation loss that decides."""

    first: int
    second: int
    second_kind: str
    loss: float
    chosen: bool


@dataclass(frozen=True)
class Blank:
    """A sentence with [MASK], the words that stood there (if known), each model's answer."""

    text: str
    truth: str
    answers: dict[str, str]


@dataclass(frozen=True)
class Results:
    """Everything the report shows; first row the teacher, second the student from scratch."""

    corpus: dict[str, str]
    settings: dict[str, str]
    versions: dict[str, str]
    rows: list[Row]
    candidates: list[Candidate]
    blanks: list[Blank]
    seconds: float
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write as JSON to `path`."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: nothing at `path`.
        """
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["rows"] = [Row(**{**row, "curve": Curve(**row["curve"])}) for row in raw["rows"]]
        raw["candidates"] = [Candidate(**item) for item in raw["candidates"]]
        raw["blanks"] = [Blank(**item) for item in raw["blanks"]]
        return cls(**raw)
