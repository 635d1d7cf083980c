"""What ``scripts/plan.py`` is asked for: its own settings, and the run's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glmkd_nemo.config.finetune import FinetuneSchema
from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.run import CONF, aggregator_fields, task_fields, term_fields
from glmkd_nemo.config.schema import ModelSection, PretrainSchema
from glmkd_nemo.config.strict import ConfigError, check, known_path, nearest
from glmkd_nemo.data.command_tokens import bert_commands, gpt2_commands
from glmkd_nemo.data.config import TokenizerConfig
from glmkd_nemo.plan.hardware import Assumed, Gpu

SCHEMAS: dict[str, type] = {"pretrain": PretrainSchema, "finetune": FinetuneSchema}
_PLANNED = ("trainer", "engine", "model", "task")
# words that say more than the names of the section `model`, which may be used too
_SHORT = {
    "sequence_length": "model.encoder_seq_length",
    "precision": "trainer.precision",
    "recompute": "model.activations_checkpoint_granularity",
}
# tokens of the vocabularies that published GLMs have
_TEXT_TOKENS = {"bert": 30522, "gpt2": 50257}
_SPECIALS = ("[PAD]", "[CLS]", "[MASK]", "[UNK]", "[SEP]", "<|endoftext|>")


@dataclass
class PlanSettings:
    """All of ``conf/plan.yaml``; the comments there say what each is."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    gpu: str = "h100-80g"
    search: bool = False
    max_pipeline: int = 8
    top: int = 5
    recipe: str | None = None
    stage: str | None = None
    vocab_size: int | None = None
    assumed: Assumed = field(default_factory=Assumed)
    gpus: dict[str, Gpu] = field(default_factory=dict)

    @property
    def device(self) -> Gpu:
        """The chosen one."""
        return self.gpus[self.gpu]

    @property
    def on_cpu(self) -> bool:
        """Whether there is no CUDA device."""
        return self.gpu == "cpu"


def split_arguments(arguments: Sequence[str]) -> tuple[PlanSettings, list[str], list[str]]:
    """Sorts ``key=value`` arguments.

    Args:
        arguments: of the command line.

    Returns:
        The planner's settings, the names of teachers, and overrides of the run.

    Raises:
        ConfigError: a key or a value that cannot be.
    """
    own, teachers, run = [], [], []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator:
            raise ConfigError(f"{argument} is no key=value: write model=2b, for instance")
        if key in ("teacher", "teachers"):
            teachers += [name for name in value.strip("[]").split(",") if name not in ("", "null")]
        elif key.split(".")[0] in PlanSettings.__dataclass_fields__:
            own.append(argument)
        else:
            run.append(_override(key, value))
    return load_settings(own), teachers, run


def _override(key: str, value: str) -> str:
    """An override as the run's script takes it."""
    if key == "distributed_optimizer":
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"distributed_optimizer={value}: write true or false")
        name = "mcore_distributed_optim" if value.lower() == "true" else "adam"
        return f"model.optim.name={name}"
    if key == "recompute" and value in ("none", "false"):
        value = "null"
    if key in _SHORT:
        return f"{_SHORT[key]}={value}"
    if key in ModelSection.__dataclass_fields__:
        return f"model.{key}={value}"
    return f"{key}={value}"


def load_settings(own: Sequence[str]) -> PlanSettings:
    """``conf/plan.yaml`` with changes.

    Raises:
        ConfigError: an unknown key or GPU with the nearest known one, or a value of a wrong type.
    """
    path = CONF / "plan.yaml"
    for argument in own:
        if problem := known_path(argument.partition("=")[0], PlanSettings):
            raise ConfigError(problem)
    try:
        read = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(own)))
        check(cast(dict[str, Any], OmegaConf.to_container(read)), PlanSettings)
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PlanSettings), read))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path.name}: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, PlanSettings)
    if settings.gpu not in settings.gpus:
        known = ", ".join(settings.gpus)
        hint = nearest(settings.gpu, settings.gpus)
        raise ConfigError(
            f"gpu={settings.gpu} is unknown{hint} (there are: {known}; gpus.NAME.memory_gib=... "
            "and its other keys describe a new one)"
        )
    for name in ("nodes", "gpus_per_node", "max_pipeline", "top"):
        if (value := getattr(settings, name)) is not None and value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")
    return settings


def compose(script: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration that a script would run with, as plain containers.

    Values that must be given for a run, such as the tokenizer's path, may be missing. On a task,
    terms are of what it asks for.

    Args:
        script: ``pretrain`` or ``finetune``.
        overrides: of its command line.

    Raises:
        ConfigError: an unknown key or group, or a value that cannot be.
    """
    import hydra

    spelled = check_overrides(list(overrides), SCHEMAS[script], CONF, {})
    try:
        with hydra.initialize_config_dir(str(CONF), version_base=None):
            cfg = hydra.compose(script, overrides=spelled)
        # the others, exp_manager for one, have resolvers of NeMo's, which is slow to import
        sections = {name: cfg[name] for name in _PLANNED if name in cfg}
        plain: dict[str, Any] = {
            name: OmegaConf.to_container(section, resolve=True)
            for name, section in sections.items()
        }
    except (hydra.errors.HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    check(plain, SCHEMAS[script], {}, term_fields, aggregator_fields, task_fields)
    _resolve_answers(plain["model"])
    return {**plain, "restore_from_path": cfg.get("restore_from_path")}


def _resolve_answers(model: dict[str, Any]) -> None:
    """What ``of: answers`` of terms stands for on the task of this section, if it has one."""
    from glmkd_nemo.distill.terms import with_answers
    from glmkd_nemo.tasks.registry import answers_of

    task, distill = model.get("task"), model.get("distill") or {}
    if task and distill.get("terms"):
        distill["terms"] = with_answers(distill["terms"], answers_of(task))


def vocabulary_of(tokenizer: dict[str, Any]) -> int:
    """Size of a tokenizer's vocabulary, command tokens included.

    Args:
        tokenizer: the section ``model.tokenizer``; its path need not be given for the vocabularies
            of published models.

    Raises:
        ValueError: the size is unknown without the vocabulary.
    """
    path = tokenizer.get("path")
    if path not in (None, "???") and Path(path).exists():
        from glmkd_nemo.data.tokenizer import build_tokenizer

        return int(build_tokenizer(tokenizer).vocab_size)
    kind = str(tokenizer.get("type"))
    if kind not in _TEXT_TOKENS:
        raise ConfigError(
            f"the size of a {kind} vocabulary is not known: set vocab_size=, or "
            "model.tokenizer.path= to the vocabulary."
        )
    names = [*_SPECIALS, *(f"token {i}" for i in range(_TEXT_TOKENS[kind] - len(_SPECIALS)))]
    vocabulary = {name: i for i, name in enumerate(names)}
    known = TokenizerConfig.__dataclass_fields__
    cfg = TokenizerConfig(**{k: v for k, v in tokenizer.items() if k in known})
    commands = bert_commands if kind == "bert" else gpt2_commands
    return max([len(vocabulary), *(token.id + 1 for token in commands(vocabulary, cfg))])
