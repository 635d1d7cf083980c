"""A callback that measures, during distillation, how similar student and teacher are inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from megatron.core import parallel_state

from glmkd_nemo.distill.analysis import pairs, similarities
from glmkd_nemo.distill.method import Batch, batch_of
from glmkd_nemo.distill.taps import record
from glmkd_nemo.distill.teachers import Teacher, shape_of
from glmkd_nemo.engine import schedule

FILE, PICTURE = "analysis.json", "analysis_{}.png"


class LayerSimilarity(Callback):
    """Every so many steps a forward pass of student and teachers on the current micro-batch.

    The pass is without gradient and dropout, so that training goes on as without it. Numbers (see
    :mod:`glmkd_nemo.distill.analysis`) go to the loggers as ``analysis/<teacher>/<name/measure>``,
    to ``analysis.json`` in the log directory, and as heat-map to ``analysis_<teacher>.png``.

    Args:
        every_n_steps: optimizer steps between two measurements; the first is before training.
        temperatures: T of the KL divergences.

    Raises:
        ValueError: numbers that cannot be.
    """

    def __init__(self, every_n_steps: int, temperatures: list[float]) -> None:
        if every_n_steps < 1 or not temperatures or min(temperatures) <= 0:
            raise ValueError(
                f"distill.analysis: every_n_steps={every_n_steps} must be at least 1, and "
                f"temperatures={temperatures} some numbers above 0."
            )
        self.every_n_steps, self.temperatures = every_n_steps, list(temperatures)
        self.measured: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far."""
        return {"measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what was measured before."""
        self.measured = list(state_dict["measured"])

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Measures, if it is time."""
        step = trainer.global_step
        if step % self.every_n_steps or any(row["step"] == step for row in self.measured):
            return
        micro = batch_of(schedule.split(batch, int(module.cfg.micro_batch_size))[0])
        values = measure(module.glm, module.step.teachers, micro, self.temperatures)
        self.measured.append({"step": step, "teachers": values})
        folder = _folder(trainer)
        if not trainer.is_global_zero:
            return
        flat = {
            f"analysis/{teacher}/{name}": value
            for teacher, found in values.items()
            for name, value in found.items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(flat, step=step)
        self._write(folder)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Draws the heat-maps of the last measurement."""
        folder = _folder(trainer)
        if not trainer.is_global_zero or not self.measured:
            return
        from glmkd_nemo.engine.analysis_plot import heat_map

        last = self.measured[-1]
        for teacher, values in last["teachers"].items():
            picture = heat_map(values, f"{teacher}, step {last['step']}", self.temperatures)
            (folder / PICTURE.format(teacher)).write_bytes(picture)

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{FILE}.part"
        part.write_text(json.dumps(self.measured, indent=1), encoding="utf-8")
        part.replace(folder / FILE)


def measure(
    student: Any, teachers: Mapping[str, Teacher], batch: Batch, temperatures: list[float]
) -> dict[str, dict[str, float]]:
    """Similarities with each teacher, the mean over data-parallel ranks; all ranks call it.

    Args:
        student: a ``GLMModel``; it is left in the mode that it was in.
        teachers: by name.
        batch: a micro-batch.
        temperatures: T of the KL divergences.
    """
    found = {}
    for name, teacher in teachers.items():
        compared = pairs(shape_of(student.config), shape_of(teacher.config))
        mine = _taps(student, {key for key, _ in compared.values()}, batch)
        _, theirs = teacher.forward(batch, {key for _, key in compared.values()}, None)
        values = similarities(compared, mine, theirs, batch, temperatures)
        found[name] = _over_replicas(values)
    return found


@torch.no_grad()
def _taps(student: Any, want: set[Any], batch: Batch) -> dict[Any, Any]:
    training = student.training
    student.eval()
    try:
        with record(want, student.config.sequence_parallel) as taps:
            student(
                batch.input_ids,
                batch.position_ids,
                batch.attention_mask,
                materialize=False,
                task=batch.task,
            )
    finally:
        student.train(training)
    return taps


def _over_replicas(values: dict[str, float]) -> dict[str, float]:
    replicas = parallel_state.get_data_parallel_world_size()
    if replicas == 1:
        return values
    device = torch.cuda.current_device()
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group())
    return dict(zip(values, (total / replicas).tolist(), strict=True))


def _folder(trainer: Any) -> Path:
    """The run's folder; all ranks ask for it, as Lightning has rank 0 tell the others."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def callbacks_of(model: Mapping[str, Any]) -> list[Callback]:
    """The callback that ``distill.analysis`` of the section ``model`` asks for, or none.

    Raises:
        ValueError: with pipeline parallelism, or numbers that cannot be.
    """
    section = (model.get("distill") or {}).get("analysis")
    if section is None:
        return []
    if int(model.get("pipeline_model_parallel_size", 1)) > 1:
        raise ValueError(
            "model.distill.analysis compares all layers of student and teacher in one place, and "
            "with pipeline parallelism they are on several ranks: set "
            "model.pipeline_model_parallel_size=1, or model.distill.analysis=null."
        )
    defaults = {"every_n_steps": 100, "temperatures": [1.0, 5.0, 10.0, 15.0, 20.0]}
    settings = {**defaults, **{k: v for k, v in section.items() if v is not None}}
    temperatures = [float(t) for t in settings["temperatures"]]
    return [LayerSimilarity(int(settings["every_n_steps"]), temperatures)]
