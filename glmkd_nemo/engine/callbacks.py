"""What a run shows, and how it stops: one tidy progress line, a checkpoint on Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import Any

from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from glmkd_nemo.engine.agreement import AnyRank


class ProgressLine(Callback):
    """One line: step, loss parts, learning rate, time left.

    On a terminal the line is redrawn; elsewhere (a log file) it is printed every
    ``log_every_n_steps``. The loss parts are those of the last step that was logged (the first and
    the last step of a run, and every ``log_every_n_steps``-th). Rank 0 only.

    Args:
        every: seconds between redraws.
    """

    def __init__(self, every: float = 0.2) -> None:
        self.every = every
        self._bar: Any = None
        self._drawn = 0.0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Opens the line at the step that a checkpoint was restored at."""
        if trainer.is_global_zero:
            self._start, self._begin = trainer.global_step, time.monotonic()
            self._bar = tqdm(
                total=trainer.max_steps,
                initial=trainer.global_step,
                desc="step",
                bar_format="step {n_fmt}/{total_fmt} |{bar:20}| {postfix} ETA {remaining}",
                dynamic_ncols=True,
                disable=not sys.stderr.isatty(),
            )

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        """Moves the line on."""
        if self._bar is None:
            return
        self._bar.update(trainer.global_step - self._bar.n)
        now, last = time.monotonic(), trainer.global_step == trainer.max_steps
        if self._bar.disable:
            if trainer.global_step % trainer.log_every_n_steps == 0 or last:
                left = (now - self._begin) / (trainer.global_step - self._start)
                left *= trainer.max_steps - trainer.global_step
                eta = tqdm.format_interval(left)
                line = f"step {trainer.global_step}/{trainer.max_steps} {describe(module)}"
                print(f"{line} ETA {eta}", file=sys.stderr, flush=True)
        elif now - self._drawn > self.every or last:
            self._drawn = now
            self._bar.set_postfix_str(describe(module))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Prints held-out numbers above the line."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            numbers = {k: float(v) for k, v in trainer.callback_metrics.items() if "val_" in k}
            text = ", ".join(f"{name} {value:.4f}" for name, value in sorted(numbers.items()))
            if text:
                tqdm.write(f"step {trainer.global_step}: {text}", file=sys.stderr)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Closes the line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """Closes the line, so that a message starts on a line of its own."""
        self.on_train_end(trainer, module)


def describe(module: Any) -> str:
    """Loss parts last logged and the learning rate, e.g. ``loss 4.58 lr 3.0e-04``."""
    parts = [f"{name} {float(value):.4f}" for name, value in module.last_parts.items()]
    return " ".join([*parts, f"lr {module.last_lr:.2e}"])


class LoggedSteps(Callback):
    """Has loggers go on at the step that a checkpoint was restored at.

    Lightning saves its own count during the validation of a step, before it has counted that step.
    """

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Sets the count; one batch is one optimizer step here."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


class StopWithCheckpoint(Callback):
    """Ctrl-C (or SIGTERM) ends training after the running step, with a checkpoint.

    Several processes do one step more: the one during which they tell each other. A second Ctrl-C
    ends at once. All ranks stop at the same step, whichever got the signal.

    Attributes:
        stopped_at: the step that a signal ended training at, or None.
    """

    def __init__(self) -> None:
        self.stopped_at: int | None = None
        self._asked = False
        self._any_rank: AnyRank | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Takes over the signals (main thread of the process only, as Python demands)."""
        self._any_rank = AnyRank()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread
                return

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        """Stops all ranks after this step if any was asked to."""
        assert self._any_rank is not None
        if self._any_rank(self._asked) and trainer.global_step < trainer.max_steps:
            self.stopped_at = trainer.global_step
            if trainer.is_global_zero:
                note = f"stopping after step {trainer.global_step}, writing a checkpoint"
                tqdm.write(note, file=sys.stderr)
            if trainer.global_step % trainer.val_check_interval:
                trainer.limit_val_batches = 0  # do not wait for a validation that is not due
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Gives the signals back; NeMo's callback writes the checkpoint."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if self._any_rank is not None:
            self._any_rank.close()
            self._any_rank = None
