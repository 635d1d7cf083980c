"""What the demo watches during a training: a progress bar with ETA, the curve, the step time."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm


class Watch(Callback):
    """One line per training: steps, ETA, last held-out loss; collects the curve and step times.

    Its state travels in the checkpoint, so a resumed training has the whole curve.

    Args:
        label: start of the line.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._bar: tqdm[Any] | None = None
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Curve and step times so far."""
        return {"steps": self.steps, "losses": self.losses, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a checkpoint's curve."""
        self.steps = list(state_dict["steps"])
        self.losses = list(state_dict["losses"])
        self.seconds = list(state_dict["seconds"])

    @property
    def step_seconds(self) -> float:
        """Mean time of a training step (forward, backward, update; no validation, no saving)."""
        return statistics.fmean(self.seconds) if self.seconds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the line; a resumed training starts where it was."""
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc=f"{self.label:<24}",
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
            bar_format="  {desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} "
            "[{elapsed}, {remaining} left] {postfix}",
        )

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Starts the clock of a step."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stops it."""
        self.seconds.append(time.perf_counter() - self._started)
        if self._bar is not None:
            self._bar.update(1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A point of the curve."""
        loss = float(trainer.callback_metrics["val_loss"])
        self.steps.append(trainer.global_step)
        self.losses.append(loss)
        if self._bar is not None:
            self._bar.set_postfix_str(f"held-out loss {loss:.3f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the line."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Leaves the line as it is, so that what follows is readable."""
        if self._bar is not None:
            self._bar.close()
