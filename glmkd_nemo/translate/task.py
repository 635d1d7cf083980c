"""The task of a fine-tuning: ``task=NAME`` and its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.translate.command import Plan
from glmkd_nemo.translate.given import Given

SUPERGLUE = ("copa", "rte", "boolq", "wic", "cb", "multirc", "wsc", "record")
# the original's names of further tasks
LANGUAGE_MODEL = {"lambda": "lambada", "wikitext": "wikitext", "language_model": "language_model"}
SEQ2SEQ = {
    **{name: name for name in ("cnn_dm", "cnn_dm_original", "gigaword", "xsum")},
    "blank": "blank_filling",
    "squad_generation": "squad_qg",
}
_CHOICES = {"copa": 2, "cb": 3, "wsc": 10, "record": 10}  # answers of an example; others have 2
_SEVERAL_TOKENS = ("copa", "wsc", "record")


@dataclass(frozen=True)
class TaskFacts:
    """A task here.

    Attributes:
        name: of ``conf/task``.
        stage: of :class:`~glmkd_nemo.replay.flags.Setting`.
        classes: answers of an example, where there are any.
    """

    name: str
    stage: str
    classes: int = 0


def task_of(given: Given) -> TaskFacts:
    """Which task it is.

    Raises:
        ValueError: none, or one without equivalent here.
    """
    original = str(given.get("task") or "").lower()
    if original in LANGUAGE_MODEL:
        return TaskFacts(LANGUAGE_MODEL[original], "ft_lm")
    if original in SEQ2SEQ:
        return TaskFacts(SEQ2SEQ[original], "ft_lm")
    if original not in SUPERGLUE:
        known = (*SUPERGLUE, *LANGUAGE_MODEL, *SEQ2SEQ)
        hint = nearest(original, known)
        raise ValueError(
            f"--task={original}: no equivalent here{hint} (there are {', '.join(known)})"
        )
    cloze = "cloze-eval" in given
    if original == "wsc" and cloze and "wsc-negative" not in given:
        return TaskFacts("wsc_generative", "ft_lm")
    several = original in _SEVERAL_TOKENS or "multi-token" in given
    if not cloze:
        several = original in ("copa", "record")
    stage = "ft_multi" if several else "ft_single"
    return TaskFacts(original, stage, _CHOICES.get(original, 2))


def task_options(given: Given, plan: Plan, facts: TaskFacts) -> None:
    """Group and keys of the task."""
    plan.groups["task"] = facts.name
    if facts.name in (*SUPERGLUE, "wsc_generative"):
        _superglue(given, plan)
    elif facts.name in LANGUAGE_MODEL.values():
        _language_model(given, plan)
    else:
        _seq2seq(given, plan)
    if given.has("eval-batch-size"):
        plan.set("model.eval_batch_size", int(given.of("eval-batch-size")))


def _superglue(given: Given, plan: Plan) -> None:
    _folder(given, plan)
    plan.set("task.seq_length", int(given.of("seq-length")))
    plan.set("task.pattern_id", int(given.of("pattern-id")))
    plan.set("task.cloze", "cloze-eval" in given)
    plan.set("task.length_penalty", float(given.of("length-penalty")), 0.0)
    if "multi-token" in given:
        plan.set("task.multi_token", True)
    plan.set("task.fast_decode", "fast-decode" in given, False)
    plan.set("task.fixed_choices", "fix_variable_num_choices" in given, False)
    plan.set("task.block_position_encoding", "no-block-position" not in given, True)
    if "cloze-eval" not in given:
        plan.set("task.pool", str(given.of("pool-token")), "cls")
        plan.set("task.dropout", float(given.of("output-dropout")), 0.1)


def _language_model(given: Given, plan: Plan) -> None:
    _folder(given, plan)
    for option, split in (("train-data", "train"), ("valid-data", "test"), ("test-data", "test")):
        if given.has(option):
            file = PurePosixPath(given[option][0])
            if str(file.parent) != ".":
                plan.set("task.data_dir", str(file.parent))
            plan.set(f"task.{split}_file", file.name)
    plan.set("task.seq_length", int(given.of("seq-length")))
    plan.set("task.unidirectional", "unidirectional" in given)
    plan.set("task.task_mask", "task-mask" in given)
    plan.set("task.block_position_encoding", "no-block-position" not in given, True)
    if plan.groups["task"] != "lambada":
        plan.set("task.stride", int(given.of("overlapping-eval")))


def _seq2seq(given: Given, plan: Plan) -> None:
    _folder(given, plan)
    for option, key in (("src-seq-length", "max_src_length"), ("tgt-seq-length", "max_tgt_length")):
        if given.has(option):
            plan.set(f"task.{key}", int(given.of(option)))
    plan.set("task.task_mask", "task-mask" in given, False)
    plan.set("task.num_beams", int(given.of("num-beams")), 1)
    plan.set("task.length_penalty", float(given.of("length-penalty")), 0.0)
    plan.set("task.no_repeat_ngram_size", int(given.of("no-repeat-ngram-size")), 0)
    plan.set("task.min_tgt_length", int(given.of("min-tgt-length")), 0)
    if plan.groups["task"] == "blank_filling":
        plan.set("task.mask_ratio", float(given.of("blank-maskratio")), 0.1)


def _folder(given: Given, plan: Plan) -> None:
    if given.has("data-dir"):
        plan.set("task.data_dir", str(given["data-dir"]))
