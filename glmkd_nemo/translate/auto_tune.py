"""auto_tune.py of the original: one run after the other for each task, as a sweep here.

What it fine-tunes is written as the options that it would give to finetune.py, and translated as
these are; what all tasks have in common then stands in ``overrides``, the rest in ``per_task``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.translate.auto_tune_facts import DATA, EPOCHS, MODELS, TASKS
from glmkd_nemo.translate.checkpoints import Checkpoints
from glmkd_nemo.translate.command import Command, Plan
from glmkd_nemo.translate.deepspeed import Settings, settings_of
from glmkd_nemo.translate.given import Given, naming, read_options
from glmkd_nemo.translate.launcher import Launcher
from glmkd_nemo.translate.layout import Layout, layout_of
from glmkd_nemo.translate.original import Original
from glmkd_nemo.translate.programs import finetuning
from glmkd_nemo.translate.sweep import commands
from glmkd_nemo.translate.tables import AUTO_TUNE, PROGRAM
from glmkd_nemo.translate.task_teachers import teacher_words

_AGAIN = re.compile(r"--again_(\d+)__(.+)", re.DOTALL)


@dataclass(frozen=True)
class Run:
    """One run of a task: the first, or one of ``again_N__`` from the weights of that before."""

    task: str
    stage: str
    plan: Plan
    given: Given


class Tuning:
    """One command of auto_tune.py.

    Args:
        original: the command.

    Raises:
        ValueError: what it or finetune.py does not know, by option.
    """

    def __init__(self, original: Original) -> None:
        self.original = original
        self.given, rest = read_options(original.arguments, AUTO_TUNE, rest=True)
        self.again: dict[int, list[str]] = {}
        self.options: list[str] = []
        for word in rest:
            found = _AGAIN.fullmatch(word)
            if found:
                self.again.setdefault(int(found[1]), []).append(f"--{found[2]}")
            else:
                self.options.append(word)
        read_options(self.options, PROGRAM, near=AUTO_TUNE)  # names what neither knows
        self.tasks = str(self.given.of("tasks")).split(",")
        self.checkpoints = Checkpoints()
        self.notes: list[str] = []
        gpus = str(self.given.get("gpus") or AUTO_TUNE["gpus"].default)
        where = gpus if ":" in gpus else f"localhost:{gpus}"
        self.layout: Layout = layout_of(Launcher((f"--include={where}",)), original.environment)

    def runs(self) -> list[Run]:
        """All runs, task by task."""
        with naming(self.given):
            return [run for i, task in enumerate(self.tasks) for run in self._of_task(i, task)]

    def notes_of_options(self, run: Run) -> list[str]:
        """Notes on options of the command line itself, not on those that auto_tune.py adds."""
        given, _ = read_options(self.options, PROGRAM)
        given.use(*run.given.asked)
        return given.notes("fine-tuning")

    def _of_task(self, number: int, task: str) -> list[Run]:
        if task not in TASKS:
            raise ValueError(f"--tasks: {task!r} is unknown{nearest(task, TASKS)}")
        teacher = self._teacher(self.given.get("task_t_load"), task)
        words = [self._own(task) + self.options + teacher]
        if self.again and not teacher:
            self.notes.append(
                "--again_*: no effect: the original runs them with --task_t_load only"
            )
        for again in sorted(self.again) if teacher else ():
            words.append(self._again(task, self.again[again], teacher))
        first = str(self._student_model() or "labels")
        names = [first, *(f"{first}_again_{n}" for n in sorted(self.again))]
        settings = self._settings(number, task)
        return [
            self._run(task, stage, argv, settings)
            for stage, argv in zip(names, words, strict=False)
        ]

    def _run(self, task: str, stage: str, argv: list[str], settings: Settings) -> Run:
        if "del_checkpoint_activations" in self.given:
            argv = [word for word in argv if word != "--checkpoint-activations"]
        given, _ = read_options(argv, PROGRAM)
        given.use("batch-size", "lr", "fp16")  # of the tables of auto_tune.py
        with naming(given):
            plan = finetuning(given, self.layout, self.checkpoints, settings)
        return Run(task, stage, plan, given)

    def _again(self, task: str, again: list[str], teacher: list[str]) -> list[str]:
        """Options given both for all runs and for this one are left out of it."""
        both = set(self.options) & set(again)
        own = [word for word in again if word not in both]
        loads = [word for word in own if word.startswith("--task_t_load=")]
        if loads:
            teacher = self._teacher(loads[-1].partition("=")[2], task)
        left = [word for word in self.options if word not in both]
        own = [word for word in own if word not in loads]
        return [*self._own(task), *teacher, *left, *own, "--custom_first_eval"]

    def _student_model(self) -> str | None:
        found = [w.partition("=")[2] for w in self.options if w.startswith("--student_model=")]
        return found[-1] if found else None

    def _own(self, task: str) -> list[str]:
        """Options of the task and of the model."""
        given = self.given
        script, name, data, options = TASKS[task]
        if given.of("script") != script:
            raise ValueError(f"--tasks={task} belongs to --script={script}")
        model, folder, _ = self._model()
        chosen = given.get(f"{task}_model_path") or given.get("model_path")
        weights = f"{DATA}/{chosen or folder}"
        own = [f"--task={name}", *options, *model, f"--load-pretrained={weights}", "--deepspeed"]
        own.append(f"--{'valid-data' if script == 'evaluate_lm' else 'data-dir'}={DATA}/{data}")
        own += [f"--experiment-name={task}", f"--save={PurePosixPath(weights) / 'ft'}"]
        if script == "finetune_blank":
            own.append(f"--blank-maskratio={given.of('mask_ratio')}")
        return own + self._epochs(task, script)

    def _epochs(self, task: str, script: str) -> list[str]:
        kind = str(self.given.of("epoch_type"))
        if script != "finetune_superglue":
            return []
        if kind not in EPOCHS:
            raise ValueError(f"--epoch_type={kind} is none of {', '.join(EPOCHS)}")
        count = math.ceil(EPOCHS[kind][task] * float(self.given.of("epoch_rate")))
        return [f"--epochs={int(count * float(self.given.of('rate_arg_epochs')))}"]

    def _model(self) -> tuple[list[str], str, str]:
        name = str(self.given.of("model"))
        if name not in MODELS:
            raise ValueError(f"--model={name} is unknown{nearest(name, MODELS)}")
        return MODELS[name]

    def _settings(self, number: int, task: str) -> Settings:
        """The DeepSpeed file of the model, changed by ds_ and rate_ds_ options."""
        path = self._model()[2].format("")
        settings, missing = settings_of(path)
        if missing and missing not in self.notes:
            self.notes.append(missing)
        micro = self._each("ds_train_micro_batch_size_per_gpu", number, settings.micro_batch)
        steps = self._each("ds_gradient_accumulation_steps", number, settings.accumulation)
        lr = self._each("ds_optimizer__params__lr", number, settings.lr)
        bare = "del_fp16" in self.given
        return replace(
            settings,
            micro_batch=int(int(micro) * self._rate("ds_train_micro_batch_size_per_gpu")),
            accumulation=int(int(steps) * self._rate("ds_gradient_accumulation_steps")),
            lr=float(lr),
            fp16=not bare,
            zero_stage=0 if bare else settings.zero_stage,
        )

    def _rate(self, name: str) -> float:
        """A factor; the original applies it to values that are given only."""
        rate = float(self.given.of(f"rate_{name}"))
        return rate if name in self.given else 1.0

    def _each(self, name: str, number: int, default: Any) -> Any:
        given = self.given.get(name)
        if given is None:
            return default
        values = str(given).split(";")
        if len(values) not in (1, len(self.tasks)):
            raise ValueError(f"--{name}: {len(values)} values for {len(self.tasks)} tasks")
        return values[number if len(values) > 1 else 0]

    def _teacher(self, key: str | None, task: str) -> list[str]:
        if not key:
            return []
        path = Path(str(self.given.of("task_t_load_path") or "distill/task_t_load.json"))
        words, note = teacher_words(path, key, task)
        if note and note not in self.notes:
            self.notes.append(note)
        return words


def tuning(original: Original) -> list[Command]:
    """The commands of a command of auto_tune.py.

    Args:
        original: the command.

    Returns:
        Conversions, then a sweep for the tasks whose runs differ in ``per_task`` only (usually
        all of them), or the runs of a single task.

    Raises:
        ValueError: what has no equivalent, by option.
    """
    found = Tuning(original)
    runs = found.runs()
    notes = [*original.notes, *found.notes, *found.given.notes("auto_tune.py")]
    own = {word.partition("=")[0] for word in found.options}
    for run in runs:
        said = [*run.plan.notes, *found.notes_of_options(run)]
        named = [note for note in said if not note.startswith("--") or _option(note) in own]
        notes += [note for note in named if note not in notes]
    notes += _unlearnt(runs)
    sweep = commands(runs, found.layout, notes, original.environment)
    return [*found.checkpoints.commands(), *sweep]


def _unlearnt(runs: list[Run]) -> list[str]:
    """A note where a stage goes on from another that learns no answers."""
    pairs = [(a, b) for a, b in pairwise(runs) if a.task == b.task and not a.plan.answers]
    if not pairs:
        return []
    first, second = (run.stage for run in pairs[0])
    return [
        f"{first} learns no answers (intermediate losses only), yet {second} starts from its best "
        "weights on dev, as in the original; these may be early ones, or those before the first "
        f"step. With gives=last of {first} and last.nemo in place of best.nemo in "
        f"restore_from_path of {second} it starts from what was learnt"
    ]


def _option(note: str) -> str:
    return re.split("[=:,]", note)[0]
