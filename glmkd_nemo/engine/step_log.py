"""When the values of training steps are collected from all ranks, and their way to the loggers."""

from __future__ import annotations

from typing import Any

import torch


class StepLog:
    """Collects and logs a step's values where a logger wants them, and at no other step.

    Logged are steps number ``trainer.log_every_n_steps``, twice that and so on, and one at which a
    run stops; the values are those of that step alone, so that a resumed run logs the same. The
    first and the last step of a run are collected for the progress line.
    """

    def __init__(self) -> None:
        self._done = False

    def step_has_run(self, module: Any) -> None:
        """Collects, if it is time; every rank calls it in ``training_step``."""
        trainer, self._done = module.trainer, False
        number = trainer.global_step + 1
        ends = number == trainer.max_steps or not module.last_parts
        if ends or _wanted(trainer, number):
            self._collect(module)

    def batch_ends(self, module: Any) -> None:
        """Collects the values of a last step that was not known to be the last when it ran."""
        if not self._done and _wanted(module.trainer, module.trainer.global_step):
            self._collect(module)

    def _collect(self, module: Any) -> None:
        self._done = True
        module.last_parts = module.collect_parts(module.last_losses)
        optimizer = module.trainer.optimizers[0]
        values = {"lr": module.last_lr, "consumed_samples": module.consumed_samples}
        if optimizer.grad_norm is not None:
            values["grad_norm_before"] = optimizer.grad_norm
        if module.precision == "16":
            values["loss_scale"] = optimizer.loss_scale()
            values["skipped_steps"] = optimizer.skipped
        # as tensors of the host: Lightning would copy each number to the device and wait for it
        numbers = {name: torch.tensor(float(value)) for name, value in values.items()}
        logged = {f"train/{name}": v for name, v in {**module.last_parts, **numbers}.items()}
        module.log_dict(logged, rank_zero_only=True, batch_size=1)


def _wanted(trainer: Any, number: int) -> bool:
    """Whether Lightning hands the values of a step, counted from 1, to the loggers."""
    every = trainer.log_every_n_steps
    return bool(every > 0 and (number % every == 0 or trainer.should_stop))
