"""Runs of auto_tune.py as one sweep of scripts/tune.py, or as runs of scripts/finetune.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from glmkd_nemo.translate.command import Command
from glmkd_nemo.translate.layout import Layout
from glmkd_nemo.tune.spelling import spell

if TYPE_CHECKING:
    from glmkd_nemo.translate.auto_tune import Run

# what a sweep says itself of each of its runs
_OF_THE_SWEEP = ("task", "name", "exp_manager.exp_dir", "model.seed")
Items = dict[str, str]


def commands(
    runs: Sequence[Run], layout: Layout, notes: list[str], environment: Mapping[str, str]
) -> list[Command]:
    """The commands of all runs; the first one has the notes.

    Args:
        runs: task by task, stage by stage.
        layout: processes of each run.
        notes: for the user.
        environment: variables set before the command.
    """
    by_task: dict[str, list[Run]] = {}
    for run in runs:
        by_task.setdefault(run.task, []).append(run)
    named = [found[0].plan.groups["task"] for found in by_task.values()]
    trains = all(run.plan.config == "finetune" for run in runs)
    if len(by_task) == 1 or not trains or len(set(named)) < len(named):
        found = [c for own in by_task.values() for c in _single(own, layout, environment)]
    else:
        found = _sweeps(list(by_task.values()), layout, environment)
    first = found[0]
    return [Command(first.script, first.overrides, tuple(notes), first.environment), *found[1:]]


def _single(runs: Sequence[Run], layout: Layout, environment: Mapping[str, str]) -> list[Command]:
    """One command for each stage, from the best weights of the one before."""
    visible = {} if layout.visible is None else {"CUDA_VISIBLE_DEVICES": layout.visible}
    own = {**environment, **visible}
    found, before = [], None
    for run in runs:
        items = _items(run)
        place = _plain(items.get("exp_manager.exp_dir", "runs"))
        items["name"] = name = f"{run.task}_{run.stage}"
        if before is not None:
            items["restore_from_path"] = spell(before)
        before = f"{place}/{name}/best.nemo"
        found.append(Command(run.plan.config, tuple(f"{k}={v}" for k, v in items.items()), (), own))
    return found


def _items(run: Run) -> Items:
    pairs = (override.partition("=") for override in run.plan.overrides())
    return {key: value for key, _, value in pairs}


def _sweeps(
    tasks: Sequence[Sequence[Run]], layout: Layout, environment: Mapping[str, str]
) -> list[Command]:
    """A sweep for all tasks with the same stages."""
    groups: dict[str, list[Sequence[Run]]] = {}
    for runs in tasks:
        _, own = _split(runs)
        groups.setdefault(json.dumps(own), []).append(runs)
    return [_sweep(found, i, layout, environment) for i, found in enumerate(groups.values(), 1)]


def _split(runs: Sequence[Run]) -> tuple[Items, list[Items]]:
    """What the stages of a task have in common, and what each has of its own."""
    stages = [_items(run) for run in runs]
    alike = {k: v for k, v in stages[0].items() if all(s.get(k) == v for s in stages)}
    alike = {k: v for k, v in alike.items() if k not in _OF_THE_SWEEP}
    own = [
        {k: v for k, v in s.items() if k not in alike and k not in _OF_THE_SWEEP} for s in stages
    ]
    return alike, own


def _sweep(
    tasks: Sequence[Sequence[Run]], number: int, layout: Layout, environment: Mapping[str, str]
) -> Command:
    common = {runs[0].plan.groups["task"]: _split(runs)[0] for runs in tasks}
    first = next(iter(common.values()))
    alike = {k: v for k, v in first.items() if all(c.get(k) == v for c in common.values())}
    special = {
        task: {"overrides": {k: _plain(v) for k, v in own.items() if k not in alike}}
        for task, own in common.items()
    }
    methods: dict[str, dict[str, Any]] = {}
    before = None
    for run, own in zip(tasks[0], _split(tasks[0])[1], strict=True):
        methods[run.stage] = {key: _plain(value) for key, value in own.items()}
        if before is not None:
            methods[run.stage]["restore_from_path"] = f"{{best:{before}}}/best.nemo"
        before = run.stage
    seed = int(tasks[0][0].given.of("seed"))
    gpus = layout.visible or ",".join(str(i) for i in range(layout.devices))
    overrides = {key: _plain(value) for key, value in alike.items()}
    return Command(
        "tune",
        (
            f"out=runs/tune_{tasks[0][0].stage}{f'_{number}' if number > 1 else ''}",
            f"tasks=[{','.join(common)}]",
            f"seeds=[{seed}]",
            f'gpus=["{gpus}"]',
            "space={}",
            f"methods={_shown(methods)}",
            f"overrides={_shown(overrides)}",
            f"per_task={_shown({k: v for k, v in special.items() if v['overrides']})}",
        ),
        (),
        dict(environment),
    )


def _plain(value: str) -> Any:
    """A spelled override's value, as YAML reads it."""
    read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"x={value}"]))
    return read["x"]


def _shown(section: Mapping[str, Any]) -> str:
    """A section as JSON, which is YAML too: a line for each entry."""
    if not section:
        return "{}"
    rows = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in section.items()]
    return "{\n" + ",\n".join(rows) + "\n}"
