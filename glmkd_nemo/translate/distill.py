"""Teachers and objective: what the replay of recorded cases maps, as a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.replay import flags as options
from glmkd_nemo.replay.flags import NotYet, Setting, Terms
from glmkd_nemo.replay.flags.aggregators import aggregation
from glmkd_nemo.replay.flags.predictions import hard_loss, prediction_terms
from glmkd_nemo.replay.flags.random_data import random_data
from glmkd_nemo.translate.checkpoints import Checkpoints
from glmkd_nemo.translate.command import Plan, spelled
from glmkd_nemo.translate.given import Given
from glmkd_nemo.translate.terms import recipe

_METHODS = Path(options.__file__).parent / "methods"
ANALYSIS_STEPS = 100
_ANSWERS = ("kd", "hard", "annealing_kd", "continuation_kd")  # methods that compare predictions


def objective(given: Given, setting: Setting) -> tuple[Terms, dict[str, Any] | None]:
    """Terms and aggregator that the options ask for, as the replay of a recorded case has them.

    Args:
        given: options, one of them --student_model.
        setting: stage and sizes.

    Raises:
        ValueError: an unknown method or aggregator, or options that contradict each other.
    """
    student = str(given["student_model"])
    known = [path.stem for path in _METHODS.glob("*.py") if path.stem != "__init__"]
    if student not in known:
        raise ValueError(f"--student_model={student} is unknown{nearest(student, known)}")
    terms = options.translation_of(student).terms(given, setting, prediction_terms(given, setting))
    if len(setting.teacher_layers) < 2 and not given.get("multi_teacher_model"):
        return terms, None
    try:
        return aggregation(given, setting, terms)
    except NotYet as error:
        raise ValueError(f"--multi_teacher_model: no equivalent here: {error}") from error


def teachers_of(given: Given) -> list[dict[str, Any]]:
    """Of each teacher: ``path``, ``heads``, ``layers``, ``shared``.

    Raises:
        ValueError: lists of several teachers that are not equally long.
    """
    several = {
        name: str(given.get(f"mt_{name}") or "").split(":")
        for name in ("load_pretrained", "num_attention_heads", "num_layers")
    }
    count = max(len(values) for values in several.values())
    single = {name: given.of(f"teacher_{name}") for name in several}
    listed = any(values[0] for values in several.values())
    if not listed and not single["load_pretrained"]:
        return []
    columns = {}
    for name, values in several.items():
        own = values if values[0] else [single[name]]
        if len(own) not in (1, count):
            raise ValueError(f"--mt_{name}={':'.join(values)} is not of {count} teachers")
        columns[name] = own * (count // len(own))
    shared = "teacher_cross_layer_parameter_sharing" in given
    return [
        {"path": str(path), "heads": int(heads), "layers": int(layers), "shared": shared}
        for path, heads, layers in zip(*columns.values(), strict=True)
    ]


def distillation(
    given: Given, plan: Plan, setting: Setting, found: list[dict[str, Any]], paths: list[str]
) -> None:
    """Teachers, terms and what belongs to them; without --student_model only the task's labels.

    Args:
        given: options.
        plan: of the command.
        setting: stage and sizes.
        found: of :func:`teachers_of`.
        paths: of the teachers' archives.
    """
    if not given.has("student_model") or not found:
        if found:
            plan.note("--teacher_load_pretrained: no effect without --student_model")
        elif given.has("student_model"):
            plan.note("--student_model: no effect without a teacher (--teacher_load_pretrained)")
        given.use(*(n for n in given if n.startswith(("teacher_", "mt_", "student_model"))))
        _labels(given, plan, setting)
        return
    terms, aggregator = objective(given, setting)
    plan.answers = any(term["method"] in _ANSWERS for term in terms.values())
    groups, changes = recipe(terms, aggregator)
    plan.groups |= groups
    if len(paths) == 1 and spelled(paths[0]) == paths[0]:
        plan.add(f"teacher={paths[0]}")
    else:
        if len(paths) == 1:  # teacher=PATH takes no path that is to be quoted
            plan.groups["teacher"] = "nemo"
        for number, path in enumerate(paths):
            plan.add(f"model.teachers.t{number}.restore_from_path={spelled(path)}")
    trainable, half = "mt_has_grad" in given, "teacher_fp16" in given
    for number in range(len(paths)):
        if trainable:
            plan.add(f"model.teachers.t{number}.trainable=true")
        elif half and plan.wanted("trainer.precision") == 32:
            plan.add(f"model.teachers.t{number}.precision=16")
    if trainable and half and plan.wanted("trainer.precision") == 32:
        plan.note("--teacher_fp16: no effect with --mt_has_grad: teachers that learn stay in fp32")
    for change in changes:
        plan.add(change)
    _perturbed(given, plan)
    if "distil_analysis_inter" in given:
        plan.set("model.distill.analysis.every_n_steps", ANALYSIS_STEPS)


def truncated(given: Given) -> str | None:
    """The teacher that the student is cut out of, if any."""
    number = given.get("student_truncate_tn")
    return f"t{int(number)}" if number is not None and int(number) >= 0 else None


def _labels(given: Given, plan: Plan, setting: Setting) -> None:
    loss = hard_loss(given)
    if setting.stage in ("ft_multi", "ft_single") and loss != "cross_entropy":
        hard: Mapping[str, Any] = {"method": "hard", "of": "classes", "loss": loss}
        for key, value in hard.items():
            plan.set(f"model.distill.terms.hard.{key}", value)


def _perturbed(given: Given, plan: Plan) -> None:
    section = random_data(given)
    if section is not None:
        for key, value in section.items():
            plan.set(f"model.distill.random_data.{key}", value)
    elif given.has("distill_random_data"):
        plan.note(
            "--distill_random_data: no effect: --distill_random_data_n names no pass that "
            f"--forward_repeat_num={given.get('forward_repeat_num', 0)} makes"
        )


def convert_teachers(
    found: list[dict[str, Any]], checkpoints: Checkpoints, unsaid: list[str]
) -> list[str]:
    """Archives of the teachers; `unsaid` is what their weights do not tell."""
    shared = [[f"model.num_layers={t['layers']}"] if t["shared"] else [] for t in found]
    return [
        checkpoints.nemo(teacher["path"], teacher["heads"], [*unsaid, *own])
        for teacher, own in zip(found, shared, strict=True)
    ]
