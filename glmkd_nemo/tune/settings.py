"""Settings of tuning, read from ``conf/tune.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from glmkd_nemo.config.strict import ConfigError, check

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
FINETUNE = ["python", str(ROOT / "scripts" / "finetune.py")]


@dataclass
class TaskSection:
    """What is particular to one task."""

    overrides: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)


@dataclass
class TuneSettings:
    """All of ``conf/tune.yaml``; the comments there say what each is."""

    out: str = "runs/tune"
    tasks: list[str] = field(default_factory=list)
    methods: Any = None
    seeds: list[int] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    per_task: dict[str, TaskSection] = field(default_factory=dict)
    trials: int | None = None
    sampler: str = "tpe"
    patience: int | None = None
    hopeless: float | None = None
    gpus: list[Any] | None = None
    jobs: int | None = None
    launcher: str = "joblib"
    launcher_options: dict[str, Any] = field(default_factory=dict)
    command: list[str] | None = None

    @property
    def early_stopping(self) -> dict[str, Any]:
        """Overrides of a run that stops early: NeMo's experiment manager does it."""
        if self.patience is None:
            return {}
        watched = {"monitor": "val_score", "mode": "max", "min_delta": 0.0}
        params = {**watched, "patience": self.patience}
        section = "exp_manager.early_stopping_callback_params"
        given = {f"{section}.{key}": value for key, value in params.items()}
        return {"exp_manager.create_early_stopping_callback": True, **given}

    @property
    def at_a_time(self) -> int:
        """Runs at a time."""
        return self.jobs or len(self.gpus or []) or 1


def load_settings(arguments: list[str]) -> TuneSettings:
    """Settings of ``conf/tune.yaml``, changed by arguments.

    Args:
        arguments: YAML files and ``key=value``, the later one wins. A file's section ``methods`` or
            ``space`` replaces the one before it; ``space.model.optim.lr=[1e-5]`` changes one entry.

    Raises:
        ValueError: a key or a value that cannot be; the message has all problems.
        OSError: a file that cannot be read.
    """
    merged = _read(CONF / "tune.yaml")
    for argument in arguments:
        merged = _changed(merged, argument)
    plain: Any = OmegaConf.to_container(merged, resolve=False)
    check(plain, TuneSettings)
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TuneSettings), plain))
    assert isinstance(settings, TuneSettings)
    _normalize(settings)
    return settings


def _read(path: Path) -> Any:
    try:
        found = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML file: {error}") from error
    if not OmegaConf.is_dict(found):
        raise ConfigError(f"{path} must have keys such as tasks and methods")
    return found


def _changed(settings: Any, argument: str) -> Any:
    if argument.endswith((".yaml", ".yml")) and "=" not in argument:
        found = _read(Path(argument))
        for key in found:  # sections as a whole: no choice of another file is left in them
            settings[key] = found[key]
        return settings
    key, separator, _ = argument.partition("=")
    if not separator or not key:
        raise ConfigError(f"{argument} is neither a .yaml file nor key=value, e.g. tasks=[rte]")
    try:
        change = OmegaConf.from_dotlist([argument])
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{argument}: {error}") from error
    if "." not in key:
        settings[key] = change[key]
        return settings
    try:
        return OmegaConf.merge(settings, change)
    except OmegaConfBaseException as error:
        section = key.split(".")[0]
        hint = f"it is {settings.get(section)} so far; give {section}=... as a whole"
        raise ConfigError(f"{argument} does not fit {section}: {hint}") from error


def _normalize(settings: TuneSettings) -> None:
    settings.methods = _methods(settings.methods)
    settings.overrides, settings.space = flat(settings.overrides), flat(settings.space)
    for section in settings.per_task.values():
        section.overrides, section.space = flat(section.overrides), flat(section.space)
    settings.gpus = [str(gpu) for gpu in settings.gpus or []]
    problems = [
        f"{name} is empty: name at least one"
        for name in ("tasks", "methods", "seeds")
        if not getattr(settings, name)
    ]
    for name in ("trials", "jobs", "patience"):
        if getattr(settings, name) is not None and getattr(settings, name) < 1:
            problems.append(f"{name} must be at least 1")
    for name in ("tasks", "seeds"):
        if len(set(getattr(settings, name))) < len(getattr(settings, name)):
            problems.append(f"{name} names one twice")
    for task in settings.per_task:
        if task not in settings.tasks:
            problems.append(f"per_task.{task}: not one of tasks ({', '.join(settings.tasks)})")
    if problems:
        raise ConfigError("\n".join(problems))


def _methods(given: Any) -> dict[str, dict[str, Any]]:
    """By name, their overrides."""
    if isinstance(given, list):
        return {str(name): {"method": str(name)} for name in given}
    if not isinstance(given, Mapping):
        raise ConfigError("methods must be a list of recipes, or sections by name")
    for name, section in given.items():
        if section is not None and not isinstance(section, Mapping):
            raise ConfigError(f"methods.{name} must be a section of overrides, e.g. method: kd")
    return {str(name): flat(section or {}) for name, section in given.items()}


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones: ``{"a": {"b": 1}, "c.d": 2}`` is ``{"a.b": 1, "c.d": 2}``."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
