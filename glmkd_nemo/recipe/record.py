"""What is known of the stages of a recipe: ``<out>/recipe.json``, and the numbers they end with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from glmkd_nemo.recipe.plan import Recipe, Stage
from glmkd_nemo.recipe.process import newest_attempt

FILE, LOGS = "recipe.json", "logs"
_STEP = re.compile(r"step (\d+)/\d+ (?:.* )?loss (-?[\d.]+|nan|inf)\b")
# how a stage is spread over processes may change between two attempts
LAYOUT = ("trainer.devices", "trainer.num_nodes", "_parallel", "micro_batch_size")


@dataclass
class Note:
    """What is known of a stage.

    Attributes:
        arguments: it was started with.
        state: started, done or failed.
        seconds: of all attempts.
        loss: of its last step; None where there is none.
        score, metric: on the development set by the best weights, of stages on tasks.
    """

    arguments: list[str] = field(default_factory=list)
    state: str = "started"
    seconds: float = 0.0
    loss: float | None = None
    score: float | None = None
    metric: str = ""


def log_of(recipe: Recipe, stage: Stage) -> Path:
    """Where a stage's output goes; not in its own folder, which NeMo tidies up."""
    return recipe.out / LOGS / f"{stage.name}.log"


def read_notes(recipe: Recipe) -> dict[str, Note]:
    """Notes of earlier calls, by stage.

    Raises:
        ValueError: the file is damaged.
    """
    path = recipe.out / FILE
    if not path.is_file():
        return {}
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        return {name: Note(**note) for name, note in stages.items()}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it") from error


def write_notes(recipe: Recipe, notes: dict[str, Note]) -> None:
    """Writes them whole or not at all."""
    path = recipe.out / FILE
    content: dict[str, Any] = {"recipe": recipe.name, "scale": recipe.scale}
    content["stages"] = {name: asdict(note) for name, note in notes.items()}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def add_numbers(stage: Stage, log: Path, note: Note) -> None:
    """Adds the loss of the last step, and the score of a stage on a task."""
    losses = [found[2] for line in newest_attempt(log) if (found := _STEP.search(line))]
    note.loss = float(losses[-1]) if losses else note.loss
    if stage.result.name == "results.json":
        results = json.loads(stage.result.read_text(encoding="utf-8"))
        note.metric = str(results.get("main_metric", ""))
        note.score = (results.get("best") or {}).get("metrics", {}).get(note.metric)


def check_same(stage: Stage, note: Note, out: Path) -> None:
    """Refuses to go on with a stage that was begun with other settings.

    Raises:
        ValueError: names the first of them, and the remedy.
    """
    before, now = _settings(note.arguments), _settings(stage.arguments)
    for key in [*now, *before]:
        if before.get(key) != now.get(key):
            raise ValueError(
                f"stage {stage.name} was begun with {before.get(key) or f'no {key}'}, and is asked "
                f"for with {now.get(key) or f'no {key}'}: choose another out=..., or remove "
                f"{stage.folder} (and the stages after it) and {out / FILE}"
            )


def _settings(arguments: Iterable[str]) -> dict[str, str]:
    keyed = {argument.partition("=")[0]: argument for argument in arguments}
    return {k: v for k, v in keyed.items() if not any(part in k for part in LAYOUT)}
