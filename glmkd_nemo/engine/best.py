"""The best weights on the development set, and the course of the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from glmkd_nemo.tasks.task import Scores

NAME, SCORES = "best.nemo", "scores.jsonl"


class BestOnDev(Callback):
    """Writes ``best.nemo`` and the predictions whenever the main metric is better than ever.

    Args:
        folder: of the run.

    Attributes:
        step, metrics, confusion: of the best evaluation so far.
        history: ``{"step", "metrics"}`` of every evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._predictions = folder / "predictions"
        self.step, self.metrics, self._score = 0, dict[str, float](), float("-inf")
        self.confusion: dict[str, Any] | None = None
        self.history: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """So that a resumed run knows what it has to beat."""
        best = {"step": self.step, "metrics": self.metrics, "score": self._score}
        return {**best, "confusion": self.confusion, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Knows it again."""
        self.step, self.metrics = state_dict["step"], state_dict["metrics"]
        self._score, self.history = state_dict["score"], state_dict["history"]
        self.confusion = state_dict["confusion"]

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Compares; all ranks have the same metrics, and save together."""
        if module.split != "valid" or trainer.sanity_checking:
            return
        step = int(trainer.global_step)
        if not any(row["step"] == step for row in self.history):
            self.history.append({"step": step, "metrics": module.metrics})
        if not module.score > self._score:
            return
        self.step, self.metrics, self._score = step, module.metrics, module.score
        self.confusion = module.task.confusion("valid", module.scores)
        module.save_to(str(self.path))
        if trainer.is_global_zero:
            self._predictions.mkdir(exist_ok=True)
            write_scores(module.scores, self._predictions / SCORES)
            module.task.write_predictions("valid", module.scores, self._predictions)


def write_scores(scores: Scores, path: Path) -> None:
    """Writes a row of scores per example, in the order of the set."""
    rows = [json.dumps({"example": i, "scores": row.tolist()}) for i, row in enumerate(scores)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
