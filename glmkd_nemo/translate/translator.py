"""From one command line of the original to commands of this project."""

from __future__ import annotations

from collections.abc import Sequence

from glmkd_nemo.translate.auto_tune import tuning
from glmkd_nemo.translate.checkpoints import SCRIPT, Checkpoints
from glmkd_nemo.translate.command import Command, Plan
from glmkd_nemo.translate.given import Given, naming, read_options
from glmkd_nemo.translate.layout import Layout, layout_of
from glmkd_nemo.translate.original import Original, take_apart
from glmkd_nemo.translate.programs import finetuning, generating, pretraining
from glmkd_nemo.translate.tables import PROGRAM
from glmkd_nemo.tune.spelling import spell

_SPLIT = (
    "change_mp.py: the weights go over, with the step and what a method has beside the "
    "student; the optimizer's state does not",
    "a .nemo needs no conversion: it is split when it is loaded",
)
MULTI_HOST = "CUDA_VISIBLE_DEVICES"


def translate(argv: Sequence[str] | str) -> list[Command]:
    """Commands that do what a command of the original does.

    Args:
        argv: its words, or a text as a shell reads it: variables before it, lines continued by a
            backslash.

    Returns:
        First the conversions of the checkpoints that it names, then the run itself.

    Raises:
        ValueError: an unknown option (the nearest is suggested), or what has no equivalent here.
        OSError: a file that the command names cannot be read.
    """
    original = take_apart(argv)
    if original.program == "change_mp":
        return [_change_mp(original)]
    if original.program == "sort_vocab":
        return [_sort_vocab(original)]
    if original.program == "auto_tune":
        return tuning(original)
    given, _ = read_options(original.arguments, PROGRAM)
    layout = layout_of(original.launcher, original.environment)
    checkpoints = Checkpoints()
    build = {"pretrain": pretraining, "finetune": finetuning, "generate": generating}
    with naming(given):
        plan = build[original.program](given, layout, checkpoints)
    return [*checkpoints.commands(), _command(original, plan, given, layout)]


def _command(original: Original, plan: Plan, given: Given, layout: Layout) -> Command:
    environment = dict(original.environment)
    if layout.visible is not None:
        environment[MULTI_HOST] = layout.visible
    overrides = tuple(plan.overrides())
    notes = (*original.notes, *plan.notes, *given.notes(_where(plan, given)))
    return Command(plan.config, overrides, notes, environment)


def _where(plan: Plan, given: Given) -> str:
    what = {"pretrain": "pre-training", "finetune": "fine-tuning", "evaluate": "evaluation"}
    what["generate"] = "generation"
    task = f" on {plan.groups['task']}" if "task" in plan.groups else ""
    method = f" with --student_model={given['student_model']}" if given.has("student_model") else ""
    return what[plan.config] + task + method


def _change_mp(original: Original) -> Command:
    words = [word for word in original.arguments if not word.startswith("-")]
    if len(words) != 2 or len(words) != len(original.arguments) or not words[1].isdigit():
        raise ValueError("change_mp.py takes a checkpoint folder and a size: change_mp.py FOLDER 2")
    folder = words[0].rstrip("/")
    return Command(
        SCRIPT,
        (
            f"source={spell(folder)}",
            f"target={spell(f'{folder}_MP{words[1]}')}",
            "format=original",
            f"model_parallel_size={int(words[1])}",
        ),
        (*original.notes, *_SPLIT),
        original.environment,
    )


def _sort_vocab(original: Original) -> Command:
    """The original's vocab_sort.py has its folders and its tokenizer in its code."""
    read_options(original.arguments, PROGRAM)  # names what the original does not know
    name = "bert-base-uncased"
    notes = [
        "--corpus: the original's own folder; give its text, or its index by "
        "scripts/preprocess_data.py, where that is elsewhere",
        "vocab_sort.py: its charts for TensorBoard are not drawn",
    ]
    if original.arguments:
        notes.append("options of vocab_sort.py: no effect: the original's code sets its own")
    return Command(
        "sort_vocab",
        (
            *("--corpus", "../GLM/data/pretrain/bertbase/wikibook_glm.txt"),
            *("--output", f".pytorch_pretrained_bert/BertWordPieceTokenizer_{name}.txt"),
            *("--tokenizer", "bert", "--tokenizer-path", name),
        ),
        (*original.notes, *notes),
        original.environment,
    )
