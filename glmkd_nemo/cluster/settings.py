"""Settings of the launcher, read strictly from ``conf/launch.yaml`` and ``conf/cluster``."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from glmkd_nemo.config.strict import ConfigError, check, known_path, nearest

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
EXPORTS = ("nemo_run",)
_UNITS = (86400, 3600, 60, 1)
_TIME = re.compile(r"(?:(\d+)-)?(\d+(?::\d+){0,2})")


@dataclass
class ContainerSettings:
    """A container of pyxis: ``srun --container-image --container-mounts``."""

    image: str | None = None
    mounts: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


@dataclass
class SlurmSettings:
    """All of ``conf/cluster/slurm.yaml``; the comments there say what each is."""

    kind: str = "slurm"
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    time: str = "24:00:00"
    times: dict[str, str] = field(default_factory=dict)
    gres: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    exclusive: bool = True
    exclude: str | None = None
    constraint: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    signal_seconds: int = 300
    max_requeues: int = 3
    check_nodes: bool = True
    modules: list[str] = field(default_factory=list)
    free_gb: float = 0.0
    container: ContainerSettings = field(default_factory=ContainerSettings)
    python: str | None = None
    repository: str | None = None
    env: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)


@dataclass
class LocalSettings:
    """All of ``conf/cluster/local.yaml``."""

    kind: str = "local"
    python: str | None = None
    env: dict[str, Any] = field(default_factory=dict)


KINDS: dict[str, type] = {"slurm": SlurmSettings, "local": LocalSettings}


@dataclass
class LaunchSettings:
    """All of ``conf/launch.yaml``; the comments there say what each is.

    Attributes:
        changes: what the recipe is read with: arguments whose keys are not the launcher's.
    """

    recipe: str | None = None
    stages: list[Any] | None = None
    out: str | None = None
    cluster: Any = "slurm"
    dry_run: bool = False
    export: str | None = None
    changes: list[str] = field(default_factory=list)


def load_settings(arguments: list[str]) -> LaunchSettings:
    """Settings of ``conf/launch.yaml``, changed by ``key=value`` arguments.

    Returns:
        Them, with ``cluster`` a :class:`SlurmSettings` or :class:`LocalSettings`.

    Raises:
        ConfigError: a key or a value that cannot be; the message has all problems.
        OSError: a file that cannot be read.
    """
    merged = _read(CONF / "launch.yaml")
    own, changes = _sorted(arguments)
    cluster_changes = [argument for argument in own if argument.startswith("cluster.")]
    merged = _changed(merged, [argument for argument in own if argument not in cluster_changes])
    cluster = _cluster(str(merged.pop("cluster")), cluster_changes)
    plain = OmegaConf.to_container(merged, resolve=True)
    settings = _typed(plain, LaunchSettings)
    settings.cluster, settings.changes = cluster, changes
    _check_choice(settings)
    return settings


def _sorted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The launcher's own arguments, and the recipe's."""
    names = {f.name for f in dataclasses.fields(LaunchSettings)} - {"changes"}
    own: list[str] = []
    rest: list[str] = []
    problems: list[str] = []
    for argument in arguments:
        key, separator, _ = argument.partition("=")
        if not separator or not key:
            problems.append(f"{argument} is no key=value: write recipe=NAME, for instance")
        elif key in names or key.startswith("cluster."):
            own.append(argument)
        elif hint := nearest(key, names) if "." not in key and key not in _recipe_keys() else "":
            problems.append(f"unknown key {key}{hint}")
        else:
            rest.append(argument)
    if problems:
        raise ConfigError("\n".join(problems))
    return own, rest


def _recipe_keys() -> set[str]:
    from glmkd_nemo.recipe.settings import RecipeSettings

    return {f.name for f in dataclasses.fields(RecipeSettings)}


def _cluster(name: str, changes: list[str]) -> Any:
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONF / "cluster" / f"{name}.yaml"
    if not path.is_file() and path.parent == CONF / "cluster":
        there = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ConfigError(
            f"cluster={name} is unknown{nearest(name, there)} (there are: {', '.join(there)}, or "
            "name a YAML file of yours)"
        )
    found = _read(path)
    kind = found.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{path}: kind={kind} must be one of {', '.join(KINDS)}")
    bare = [change.removeprefix("cluster.") for change in changes]
    problems = [known_path(change.partition("=")[0], KINDS[kind]) for change in bare]
    wrong = [problem.replace("key ", "key cluster.", 1) for problem in problems if problem]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return _typed(OmegaConf.to_container(_changed(found, bare), resolve=True), KINDS[kind])


def _typed(plain: Any, schema: type) -> Any:
    check(plain, schema)
    _check_times(plain)
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))


def _check_times(plain: dict[str, Any]) -> None:
    """YAML reads 12:00:00 as a number of seconds, which Slurm would take for minutes."""
    times = {f"times.{name}": value for name, value in (plain.get("times") or {}).items()}
    for key, value in {"time": plain.get("time"), **times}.items():
        if not isinstance(value, str | None):
            raise ConfigError(f'cluster.{key}={value} is a number: quote it in YAML, "12:00:00"')
        if value is not None and _seconds(key, value) <= (plain.get("signal_seconds") or 0):
            raise ConfigError(
                f"cluster.{key}={value} is no longer than cluster.signal_seconds="
                f"{plain['signal_seconds']}: a job would stop as soon as it starts, give it more"
            )


def _seconds(key: str, value: str) -> float:
    """Of a time as Slurm writes it: MINUTES[:SECONDS], H:M:S, D-H[:M[:S]]; 0 is no limit."""
    if value.upper() in ("UNLIMITED", "INFINITE"):
        return float("inf")
    found = _TIME.fullmatch(value)
    if not found:
        raise ConfigError(f"cluster.{key}={value} is no time: write 12:00:00, or 2-12 (days-hours)")
    days, rest = found.groups()
    numbers = [int(number) for number in rest.split(":")]
    first = 1 if days or len(numbers) == 3 else 2  # hours, or minutes
    within = sum(number * unit for number, unit in zip(numbers, _UNITS[first:], strict=False))
    return int(days or 0) * _UNITS[0] + within or float("inf")


def _read(path: Path) -> Any:
    try:
        found = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML file: {error}") from error
    if not OmegaConf.is_dict(found):
        raise ConfigError(f"{path} must have keys, such as kind")
    return found


def _changed(settings: Any, changes: list[str]) -> Any:
    for change in changes:
        key, _, value = change.partition("=")
        try:
            words = key == "time" or key.startswith("times.")  # see _check_times
            given = value if words else OmegaConf.from_dotlist([f"value={value}"]).get("value")
            OmegaConf.update(settings, key, given, force_add=True)
        except (YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"{change}: {error}") from error
    return settings


def _check_choice(settings: LaunchSettings) -> None:
    inline = [stage for stage in settings.stages or [] if not isinstance(stage, str)]
    if settings.export not in (None, *EXPORTS):
        raise ConfigError(f"export={settings.export} is unknown (there is: {', '.join(EXPORTS)})")
    if settings.recipe is None and not inline:
        raise ConfigError(
            "nothing to launch: write recipe=NAME, or stages in full (conf/launch.yaml)"
        )
    if settings.recipe is not None and inline:
        raise ConfigError("stages in full stand for a recipe: give one of them, or stages' names")
    if settings.recipe is None and settings.changes:
        raise ConfigError(f"{settings.changes[0]} changes a recipe: name it, recipe=NAME")
