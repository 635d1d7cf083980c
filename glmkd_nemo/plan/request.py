"""From the command line to the models of a run: names of ``conf/model``, archives, recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from glmkd_nemo.config.run import CONF
from glmkd_nemo.config.strict import ConfigError, nearest
from glmkd_nemo.plan.build import Request
from glmkd_nemo.plan.settings import SCHEMAS, PlanSettings, compose, vocabulary_of

# entries of the section `model` that say what a model is; the others say how it is run
SIZES = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads"),
    *("max_position_embeddings", "make_vocab_size_divisible_by", "embedding_size", "share_layers"),
    *("bottleneck_size", "bottleneck_ffns", "bottleneck_word_embedding", "vocab_map", "tokenizer"),
)
_UNKNOWN_YET = (None, "", "???")


@dataclass(frozen=True)
class Planned:
    """A run to be planned.

    Attributes:
        title: what it is, for the user.
        request: its models.
        cluster: nodes, and devices of each.
    """

    title: str
    request: Request
    cluster: tuple[int, int]


def planned_run(settings: PlanSettings, teachers: Sequence[str], run: Sequence[str]) -> Planned:
    """Reads the run that the user describes.

    Args:
        settings: the planner's.
        teachers: names of ``conf/model``, or paths of ``.nemo`` archives.
        run: overrides of the run, or of the recipe's stage.

    Raises:
        ValueError: a model, teacher, recipe or stage that is not there, with the remedy.
        OSError: an archive that cannot be read.
    """
    source = _Source("pretrain", list(run), {}, (1, 8), "")
    if settings.recipe is not None:
        source = _of_recipe(settings, run)
    cfg = compose(source.script, [*_trainer(settings, source.arguments), *source.arguments])
    _refuse_unknown(cfg)
    model = dict(cfg["model"])
    start = cfg.get("restore_from_path")
    if start not in _UNKNOWN_YET and _value_of("model", source.arguments) is None:
        model |= _sizes(_model_at(str(start), source.archives, "restore_from_path"))
    hosted = _teachers(model, teachers, source.archives)
    for name, teacher in hosted.items():
        _check_vocabulary(name, teacher, model)
    size = settings.vocab_size or vocabulary_of(model["tokenizer"])
    if hosted and not (model.get("distill") or {}).get("terms"):
        raise ConfigError("a teacher is given and no method: add method=glmd, or another one.")
    nodes, devices = source.cluster
    cluster = settings.nodes or nodes, settings.gpus_per_node or devices
    title = source.title or _title(source.arguments, teachers)
    return Planned(title, Request(model, hosted, size), cluster)


def _title(arguments: Sequence[str], teachers: Sequence[str]) -> str:
    """Student, method and teachers as the user named them."""
    model = _value_of("model", arguments) or "the default model"
    method = _value_of("method", arguments)
    taught = f" <- {', '.join(teachers)}" if teachers else ""
    return f"{model}{taught}{f' ({method})' if method else ''}"


def _refuse_unknown(cfg: Mapping[str, Any]) -> None:
    if (cfg.get("engine") or {}).get("name") == "deepspeed":
        raise ConfigError(
            "DeepSpeed's own buffers are not known here: plan with engine=megatron, whose "
            "distributed optimizer shards as ZeRO stage 1 does."
        )
    for name, teacher in (cfg["model"].get("teachers") or {}).items():
        if teacher.get("trainable"):
            raise ConfigError(
                f"model.teachers.{name}.trainable=true: only frozen teachers are planned; set it "
                "to false, and add the teacher's gradients and optimizer (16 bytes a parameter)."
            )


def _trainer(settings: PlanSettings, arguments: Sequence[str]) -> list[str]:
    """The trainer of the devices that are planned for, unless the user names one."""
    if any(argument.startswith("trainer=") for argument in arguments):
        return []
    return [f"trainer={'cpu' if settings.on_cpu else 'gpu'}"]


@dataclass(frozen=True)
class _Source:
    """A script's command, the commands that made the models it reads, and its cluster."""

    script: str
    arguments: list[str]
    archives: dict[str, Sequence[str]]
    cluster: tuple[int, int]
    title: str


def _of_recipe(settings: PlanSettings, changes: Sequence[str]) -> _Source:
    from glmkd_nemo.recipe.plan import load_recipe
    from glmkd_nemo.recipe.settings import load_settings

    recipe = load_recipe(str(settings.recipe), [])
    stages = {stage.name: stage for stage in recipe.stages}
    trained = [name for name, stage in stages.items() if stage.script in SCHEMAS]
    if settings.stage is None:
        raise ConfigError(
            f"recipe={settings.recipe} has several stages: write stage=NAME (one of "
            f"{', '.join(trained)})"
        )
    if settings.stage not in trained:
        hint = nearest(settings.stage, trained)
        raise ConfigError(
            f"stage={settings.stage}: recipe {settings.recipe} has no such stage that trains{hint} "
            f"(there are: {', '.join(trained)})"
        )
    stage = stages[settings.stage]
    made: dict[str, Sequence[str]] = {
        str(s.model): s.arguments for s in recipe.stages if s.script in SCHEMAS and s.model
    }
    for template in load_settings(str(settings.recipe), [])[1].stages.values():
        if template is not None and template.given:  # an archive that the recipe names the size of
            made[template.given] = [f"{k}={v}" for k, v in dict(template.overrides).items()]
    cluster = stage.nodes, stage.devices
    arguments = [_unquoted(argument) for argument in stage.arguments]
    made = {path: [_unquoted(argument) for argument in command] for path, command in made.items()}
    title = f"recipe {settings.recipe}, stage {settings.stage}"
    return _Source(stage.script, [*arguments, *changes], made, cluster, title)


def _unquoted(argument: str) -> str:
    """``model='2b'``, as Hydra may have it, as ``model=2b``: a name is a name, not a number."""
    key, _, value = argument.partition("=")
    bare = value.strip("'")
    return f"{key}={bare}" if "." not in key and bare.isalnum() else argument


def _teachers(
    model: Mapping[str, Any], names: Sequence[str], archives: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Section ``model`` of each teacher: those named, or else those of the configuration."""
    given = model.get("teachers") or {}
    if names:
        keys = list(given) if len(given) == len(names) else [f"t{i}" for i in range(len(names))]
        sources = dict(zip(keys, names, strict=True))
    else:
        sources = {name: str(t.get("restore_from_path")) for name, t in given.items()}
    return {name: _model_at(source, archives, "teacher") for name, source in sources.items()}


def _model_at(source: str, archives: Mapping[str, Sequence[str]], key: str) -> dict[str, Any]:
    """Section ``model`` of a model by name, by the stage that makes it, or in an archive."""
    if (CONF / "model" / f"{source}.yaml").is_file():
        return dict(compose("pretrain", [f"model={source}"])["model"])
    if source in archives:
        arguments = archives[source]
        made = compose("pretrain", [a for a in arguments if _of_model(a)])
        if any(a.startswith("model=") for a in arguments):
            return dict(made["model"])
        start = _value_of("restore_from_path", arguments)
        if start is not None:
            return {**made["model"], **_sizes(_model_at(start, archives, key))}
    if Path(source).exists():
        from glmkd_nemo.checkpoint.archive import read_nemo_config

        return cast(dict[str, Any], OmegaConf.to_container(read_nemo_config(source), resolve=True))
    known = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    raise ConfigError(
        f"{key}={source} is neither a .nemo that is there nor a name of conf/model"
        f"{nearest(source, known) or '.'} Give teacher= one of {', '.join(known)} (or an archive); "
        "for a student model= one of them."
    )


def _of_model(argument: str) -> bool:
    key = argument.partition("=")[0]
    return key in ("model", "tokenizer") or key.removeprefix("model.").split(".")[0] in SIZES


def _value_of(key: str, arguments: Sequence[str]) -> str | None:
    values = [a.partition("=")[2] for a in arguments if a.partition("=")[0] == key]
    return values[-1] if values and values[-1] not in _UNKNOWN_YET else None


def _sizes(model: Mapping[str, Any]) -> dict[str, Any]:
    return {key: model[key] for key in SIZES if key in model}


def _check_vocabulary(name: str, teacher: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    mine, theirs = model["tokenizer"].get("type"), teacher["tokenizer"].get("type")
    if mine != theirs:
        raise ConfigError(
            f"teacher {name} reads a {theirs} vocabulary and the student {mine}: both need the "
            f"same one, e.g. tokenizer={theirs} after model=."
        )
