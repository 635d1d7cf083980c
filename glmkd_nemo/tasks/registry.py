"""Tasks by name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.data.superglue.config import TASKS as SUPERGLUE
from glmkd_nemo.tasks.task import Task

_PACKAGE = "glmkd_nemo.tasks"
# modules are imported when a task of theirs is asked for: some need libraries of their own
_CLASSES = {
    **dict.fromkeys(SUPERGLUE, "classify.SuperGLUETask"),
    "lambada": "language_model.LambadaTask",
    "wikitext": "language_model.PerplexityTask",
    "language_model": "language_model.PerplexityTask",
    **dict.fromkeys(("cnn_dm", "cnn_dm_original", "gigaword", "xsum"), "seq2seq.SummaryTask"),
    "squad_qg": "seq2seq.QuestionTask",
    "blank_filling": "seq2seq.BlankFillingTask",
}
TASKS = tuple(_CLASSES)


def task_class(name: str) -> type[Task]:
    """The class of a task.

    Raises:
        ValueError: an unknown task; the nearest known one is suggested.
    """
    if name not in _CLASSES:
        raise ValueError(f"unknown task {name!r}{nearest(name, TASKS)} (there are: {_listed()})")
    module, _, found = _CLASSES[name].rpartition(".")
    task: type[Task] = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), found)
    return task


def task_fields(name: str) -> Iterable[str]:
    """Keys of the section ``task`` with this name.

    Raises:
        ValueError: an unknown task.
    """
    return [field.name for field in dataclasses.fields(_config_class(name)) if field.init]


def build_task(cfg: Any, tokenizer: Any) -> Task:
    """The task of a section ``task``: its ``name``, and options of that task.

    Raises:
        ValueError: an unknown task or option, or a value that cannot work.
    """
    section = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    if not isinstance(section, Mapping) or not section.get("name"):
        raise ValueError(f"no task is chosen: write task=NAME, one of {_listed()}")
    name = str(section["name"])
    try:
        typed: Any = OmegaConf.merge(OmegaConf.structured(_config_class(name)), dict(section))
        options = {key: typed[key] for key in task_fields(name)}
    except OmegaConfBaseException as error:
        raise ValueError(f"task {name}: {str(error).splitlines()[0]}") from error
    build: Any = task_class(name)
    task: Task = build(_config_class(name)(**options), tokenizer)
    return task


def over_tokens(cfg: Mapping[str, Any]) -> bool:
    """Whether the labels of a section's task are tokens, not answers to choose among."""
    name = cfg.get("name")
    return name not in SUPERGLUE or name == "wsc_generative"


def answers_of(cfg: Mapping[str, Any]) -> str:
    """What ``of: answers`` of a term stands for on a section's task: ``tokens`` or ``classes``."""
    return "tokens" if over_tokens(cfg) else "classes"


def _config_class(name: str) -> Any:
    return task_class(name).Config  # type: ignore[attr-defined]


def _listed() -> str:
    return ", ".join(TASKS)
