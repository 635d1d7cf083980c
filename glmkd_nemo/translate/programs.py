"""Runs of pretrain.py and finetune.py (and of their GLM forms) as plans."""

from __future__ import annotations

from glmkd_nemo.data.config import TokenizerConfig
from glmkd_nemo.replay.flags import Setting
from glmkd_nemo.translate import distill
from glmkd_nemo.translate.checkpoints import Checkpoints
from glmkd_nemo.translate.command import Plan
from glmkd_nemo.translate.corpus import corpora
from glmkd_nemo.translate.deepspeed import Settings
from glmkd_nemo.translate.given import Given
from glmkd_nemo.translate.layout import Layout
from glmkd_nemo.translate.model import new_model, sizes_of, tokenizer_of
from glmkd_nemo.translate.task import task_of, task_options
from glmkd_nemo.translate.training import effective, optimization, processes
from glmkd_nemo.tune.spelling import spell

_OF_THE_ARCHIVE = (
    *("num-layers", "hidden-size", "num-attention-heads", "max-position-embeddings"),
    *("make-vocab-size-divisible-by", "tokenizer-type", "tokenizer-model-type", "task-mask"),
    *("fix-command-token", "ib_hidden_size", "ib_ffn_num", "ib_word_emb", "compress_word_emb"),
    *(
        "inverted_bottleneck_mode",
        "cross_layer_parameter_sharing",
        "map_vocab_size",
        "unmap_vocab_output",
    ),
    *("block-mask-prob", "context-mask-ratio", "sentinel-token"),
    *("student_build_map_vocab", "student_map_vocab_tn", "student_map_vocab_method"),
)


def pretraining(given: Given, layout: Layout, checkpoints: Checkpoints) -> Plan:
    """A run of pretrain.py.

    Raises:
        ValueError: what has no equivalent here, by option.
    """
    plan = Plan("pretrain")
    _is_glm(given)
    teachers = distill.teachers_of(given)
    layers = tuple(teacher["layers"] for teacher in teachers)
    setting = Setting("pt", int(given.of("num-layers")), layers)
    new_model(given, plan)
    _name(given, plan)
    restored = given.get("load") or given.get("load-pretrained")
    if restored:
        plan.set("restore_from_path", _student(given, str(restored), checkpoints))
        if given.get("load"):
            plan.note(
                "--load: weights only; the optimizer's state and the step begin anew. A run of "
                "this project goes on by its own command"
            )
    corpora(given, plan)
    found = effective(given, plan)
    optimization(given, plan, found, processes(given, plan, layout))
    plan.set("trainer.max_steps", int(given.of("train-iters")))
    plan.set("trainer.val_check_interval", int(given.of("eval-interval")))
    plan.set("trainer.limit_val_batches", int(given.of("eval-iters")))
    _teach(given, plan, setting, teachers, checkpoints)
    _cut_out(given, plan)
    return plan


def finetuning(
    given: Given, layout: Layout, checkpoints: Checkpoints, changed: Settings | None = None
) -> Plan:
    """A run of finetune.py; with no epochs an evaluation.

    Args:
        given: options.
        layout: processes.
        checkpoints: gets the conversions.
        changed: DeepSpeed settings in place of the file's.

    Raises:
        ValueError: what has no equivalent here, by option.
    """
    given.use("finetune")
    epochs = float(given.of("epochs") or 0)
    plan = Plan("finetune" if epochs > 0 else "evaluate")
    _is_glm(given)
    facts = task_of(given)
    task_options(given, plan, facts)
    teachers = distill.teachers_of(given)
    layers = tuple(teacher["layers"] for teacher in teachers)
    setting = Setting(facts.stage, int(given.of("num-layers")), layers, facts.classes)
    _name(given, plan)
    _origin(given, plan, checkpoints)
    if epochs <= 0:
        return _evaluation(given, plan, layout)
    found = effective(given, plan, changed)
    optimization(given, plan, found, processes(given, plan, layout))
    plan.set("epochs", int(epochs) if epochs == int(epochs) else epochs)
    plan.set("evaluate_every_epochs", int(given.of("eval-epoch")))
    plan.set("evaluate_first", "custom_first_eval" in given)
    _teach(given, plan, setting, teachers, checkpoints)
    _cut_out(given, plan)
    return plan


def _evaluation(given: Given, plan: Plan, layout: Layout) -> Plan:
    found = effective(given, plan)
    processes(given, plan, layout)
    plan.set("trainer.precision", 16 if found.fp16 else 32)
    plan.set("model.micro_batch_size", found.micro_batch)
    if plan.groups["task"] not in ("lambada", "wikitext", "language_model"):
        plan.set("split", "valid")
    return plan


def generating(given: Given, layout: Layout, checkpoints: Checkpoints) -> Plan:
    """Text typed in at generate_samples.py.

    Raises:
        ValueError: what has no equivalent here, by option.
    """
    plan = Plan("generate")
    _is_glm(given)
    if not given.has("load-pretrained"):
        raise ValueError("--load-pretrained: say which weights generate_samples.py is to take")
    folder = str(given["load-pretrained"])
    plan.set("restore_from_path", _student(given, folder, checkpoints))
    given.use(*_OF_THE_ARCHIVE)
    processes(given, plan, layout)
    plan.set("trainer.precision", 16 if "fp16" in given else 32)
    plan.set("generation.max_new_tokens", int(given.of("out-seq-length")))
    if int(given.of("num-beams")) > 1:
        plan.set("generation.num_beams", int(given.of("num-beams")))
        plan.set("generation.length_penalty", float(given.of("length-penalty")))
        plan.note("--num-beams: the best beams go on; the original draws them")
    else:
        plan.set("generation.do_sample", True)
        plan.set("generation.temperature", float(given.of("temperature")))
        plan.set("generation.top_k", int(given.of("top_k")))
        plan.set("generation.top_p", float(given.of("top_p")) or 1.0)  # 0 is all there
        plan.set("generation.seed", int(given.of("seed")))
    plan.note("texts go to the screen; output=texts.jsonl keeps them in place of samples/*.txt")
    return plan


def _is_glm(given: Given) -> None:
    if "pretrained-bert" in given or "transformer-xl" in given or "block-lm" not in given:
        named = [n for n in ("pretrained-bert", "transformer-xl") if n in given]
        what = f"--{named[0]}" if named else "a command without --block-lm"
        raise ValueError(f"{what}: no equivalent here: only GLM with blank infilling is built")


def _name(given: Given, plan: Plan) -> None:
    plan.set("name", str(given.of("experiment-name")))
    if given.has("save"):
        plan.set("exp_manager.exp_dir", str(given["save"]))
    if "custom_no_summary_writer" in given:
        plan.set("exp_manager.create_tensorboard_logger", False)


def _origin(given: Given, plan: Plan, checkpoints: Checkpoints) -> None:
    """The weights that fine-tuning starts from; a student cut out of a teacher is a new model."""
    restored = given.get("load-pretrained") or given.get("load")
    cut_out = distill.truncated(given)
    if restored and cut_out is None:
        plan.set("restore_from_path", _student(given, str(restored), checkpoints))
        given.use(*_OF_THE_ARCHIVE)
        plan.note("sizes, vocabulary and its map are those of restore_from_path")
        return
    if restored:
        plan.note(
            "--load-pretrained: no effect: --student_truncate_tn takes all weights from a teacher"
        )
    new_model(given, plan)


def _cut_out(given: Given, plan: Plan) -> None:
    teacher = distill.truncated(given)
    if teacher is not None:
        plan.set("model.student_init.teacher", teacher)


def _student(given: Given, folder: str, checkpoints: Checkpoints) -> str:
    sizes, options = sizes_of(given), _unsaid(given)
    if sizes["share_layers"]:
        options.append(f"model.num_layers={sizes['num_layers']}")
    if given.of("map_vocab_size") and "unmap_vocab_output" in given:
        options.append("model.vocab_map.unmap_output=true")
    return checkpoints.nemo(folder, int(sizes["num_attention_heads"]), options)


def _unsaid(given: Given) -> list[str]:
    """What weights do not tell a conversion: the vocabulary, and what a classifier reads."""
    default = TokenizerConfig()
    found = [
        f"model.tokenizer.{key}={spell(value)}"
        for key, value in tokenizer_of(given).items()
        if key in ("type", "path") or value != getattr(default, key)
    ]
    if given.has("task") and "cloze-eval" not in given and task_of(given).stage != "ft_lm":
        found.append(f"pool={given.of('pool-token')}")
    return found


def _teach(
    given: Given,
    plan: Plan,
    setting: Setting,
    teachers: list[dict[str, object]],
    checkpoints: Checkpoints,
) -> None:
    paths = []
    if given.has("student_model"):
        paths = distill.convert_teachers(teachers, checkpoints, _unsaid(given))
    distill.distillation(given, plan, setting, teachers, paths)
