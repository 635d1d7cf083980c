"""Files of ``conf/recipe``: what stands in them, read strictly, built on each other."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from glmkd_nemo.config.strict import ConfigError, check, nearest

CONF = Path(__file__).resolve().parents[2] / "conf" / "recipe"
PARTS = "parts"  # folder of what recipes share
SCALES = ("full", "tiny")
_WORD = re.compile(r"\{[\w:.-]+\}")


@dataclass
class StageSettings:
    """A stage of a recipe.

    Attributes:
        script: of ``scripts``, without suffix.
        overrides: of the script: a section by dotted keys, or a list of arguments as they are.
        per_task: more overrides, by task; a stage of ``finetune`` is there once for every task.
        tiny: overrides at scale tiny, the last word.
        student: the stage whose weights this one starts from, or a ``.nemo``.
        teacher: the stage whose model teaches (or a ``.nemo``).
        teachers: the same, several; t0 first.
        needs: further stages that must be done before.
        given: a ``.nemo`` that is there already: at scale full the stage is not run.
        gives: the weights that others start from: the ``best`` on the development set, or the
            ``last`` (of a stage of ``finetune`` where no term predicts answers).
        only: the scale that the stage is for; null: both.
        folder: where it works, if not ``<out>/<name>``; ``{out}`` is the recipe's.
        result: what it leaves, where that is not the script's usual; ``{folder}`` is its folder.
    """

    script: str = "pretrain"
    overrides: Any = None
    per_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)
    student: str | None = None
    teacher: str | None = None
    teachers: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    given: str | None = None
    gives: str = "best"
    only: str | None = None
    folder: str | None = None
    result: str | None = None


@dataclass
class TinySettings:
    """What is different at scale tiny, in all stages.

    Attributes:
        scripts: overrides, by script.
        per_task: overrides, by task.
        models: sizes (keys of section ``model``), by name of ``conf/model``.
        data: the section ``data``.
    """

    scripts: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataSettings:
    """What is trained on.

    Attributes:
        corpus: indexed corpora (no suffix), or text files.
        tokenizer: vocabulary file or its folder.
        tasks: with a folder for each task.
    """

    corpus: list[str] = field(default_factory=list)
    tokenizer: str = ""
    tasks: str = ""


@dataclass
class RecipeSettings:
    """A recipe.

    Attributes:
        title: one line on what it is.
        scale: full, or tiny: the same stages with models of toy size, on this machine's CPU.
        out: everything is written here.
        tasks: those that stages of ``finetune`` are run for.
        data: see there.
        models: ``.nemo`` files that there are already, by name; for ``${models.base}``.
        variables: what ``{name}`` in overrides stands for, by task; ``all``: where a task has none.
        scripts: overrides of all stages, by script.
        labels: overrides of stages of ``finetune`` that have neither a method nor an aggregator.
        per_task: overrides of all stages of ``finetune``, by task.
        tiny: see there.
        stages: by name, in the order in which they run.
        changes: overrides of the caller, by stage (``finetune``, or ``finetune_rte`` for one task).
    """

    title: str = ""
    scale: str = "full"
    out: str = ""
    tasks: list[str] = field(default_factory=list)
    data: DataSettings = field(default_factory=DataSettings)
    models: dict[str, str] = field(default_factory=dict)
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)
    scripts: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    per_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    tiny: TinySettings = field(default_factory=TinySettings)
    stages: dict[str, StageSettings | None] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)


def names(conf: Path = CONF) -> list[str]:
    """All recipes of ``conf/recipe``."""
    return sorted(path.stem for path in conf.glob("*.yaml"))


def title_of(name: str) -> str:
    """What a recipe is, in one line."""
    return str(_loaded(CONF / f"{name}.yaml").get("title", ""))


def load_settings(name_or_file: str, changes: Sequence[str]) -> tuple[str, RecipeSettings]:
    """Name and settings of a recipe.

    Args:
        name_or_file: one of :func:`names`, or a YAML file.
        changes: ``scale=tiny``, ``out=...``, ``tasks=[rte]``, ``stages.NAME.key=value``: a key of
            :class:`StageSettings`, or an override of the stage's script. ``recipe.`` before a key
            may be written or not.

    Raises:
        ConfigError: a key, name or value that cannot be.
        OSError: a file that cannot be read.
    """
    path = _find(name_or_file)
    # the other merge would copy everything every time
    merged = OmegaConf.unsafe_merge(*_layers(path, ()))
    for change in changes:
        merged = _changed(merged, change.removeprefix("recipe."))
    for key in ("tasks", "data.corpus"):  # one may be written without brackets
        if isinstance(one := OmegaConf.select(merged, key), str):
            OmegaConf.update(merged, key, [one])
    try:
        settings = _typed(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"recipe {path.stem}: {str(error).splitlines()[0]}") from error
    except ConfigError as error:
        raise ConfigError(f"recipe {path.stem}: {error}") from error
    if settings.scale not in SCALES:
        raise ConfigError(f"scale={settings.scale}: there are {', '.join(SCALES)}")
    return path.stem, settings


def _typed(merged: Any) -> RecipeSettings:
    plain: Any = OmegaConf.to_container(merged, resolve=True)
    try:
        typed = OmegaConf.unsafe_merge(OmegaConf.structured(RecipeSettings), plain)
    except OmegaConfBaseException:
        check(plain, RecipeSettings)  # names all that is wrong, with the nearest key
        raise
    settings = OmegaConf.to_object(typed)
    assert isinstance(settings, RecipeSettings)
    return settings


def _find(name_or_file: str) -> Path:
    if name_or_file.endswith((".yaml", ".yml")):
        if not Path(name_or_file).is_file():
            raise ConfigError(f"there is no recipe {name_or_file}")
        return Path(name_or_file)
    path = CONF / f"{name_or_file}.yaml"
    if name_or_file not in names():
        hint = nearest(name_or_file, names())
        raise ConfigError(f"no recipe is called {name_or_file!r}{hint} (there are: {_listed()})")
    return path


def _listed() -> str:
    return ", ".join(names())


def _layers(path: Path, before: tuple[Path, ...]) -> list[dict[str, Any]]:
    """A file, behind those that its key ``base`` names: parts, or other recipes."""
    if path in before:
        raise ConfigError(f"{path}: its bases name each other")
    found = dict(_loaded(path) if path.is_relative_to(CONF) else _loaded.__wrapped__(path))
    bases = found.pop("base", None) or []
    layers: list[dict[str, Any]] = []
    for base in [bases] if isinstance(bases, str) else bases:
        place = CONF / f"{base}.yaml"
        if not place.is_file():
            raise ConfigError(f"{path}: base {base!r} is not in {CONF}")
        layers += _layers(place, (*before, path))
    return [*layers, found]


@functools.cache
def _loaded(path: Path) -> dict[str, Any]:
    """A file as it is; those of ``conf/recipe`` are parsed once."""
    try:
        found = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML file: {error}") from error
    if not OmegaConf.is_dict(found):
        raise ConfigError(f"{path} must have keys such as base and stages")
    return OmegaConf.to_container(found, resolve=False)  # type: ignore[return-value]


def _changed(settings: Any, change: str) -> Any:
    key, separator, value = change.partition("=")
    if not separator or not key:
        raise ConfigError(f"{change!r} is no key=value: write scale=tiny, for instance")
    try:
        # {tokenizer}, {stage:teacher} are texts, not sections
        found = None if _WORD.fullmatch(value) else OmegaConf.from_dotlist([f"value={value}"])
        given = value if found is None else found.value
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{change}: {error}") from error
    words = key.split(".")
    if words[0] != "stages" or len(words) < 3:
        OmegaConf.update(settings, key, given, force_add=True)
        return settings
    name, own = words[1], ".".join(words[2:])
    if own in StageSettings.__dataclass_fields__:
        if (settings.get("stages") or {}).get(name) is None:
            hint = nearest(name, map(str, settings.get("stages") or {}))
            raise ConfigError(f"{change}: the recipe has no stage {name}{hint}")
        settings.stages[name][own] = given
    else:
        changes = settings.get("changes") or {}
        settings["changes"] = {**changes, name: {**changes.get(name, {}), own: given}}
    return settings
