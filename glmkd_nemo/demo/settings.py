"""Settings of the demo: typed, read from ``conf/demo.yaml``, changed by ``key=value`` arguments."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

SECOND_STAGES = ("labels", "soft")
CONFIG = Path(__file__).resolve().parents[2] / "conf" / "demo.yaml"


@dataclass
class ModelSettings:
    """Size and training of one model; a point of the curve every `check_every` steps."""

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    steps: int
    lr: float
    check_every: int


@dataclass
class KDSettings:
    """Hinton's distillation: `soft` times the teacher's term, the rest of 1 times the labels'."""

    temperature: float
    soft: float


@dataclass
class GLMDSettings:
    """GLMD's temperature; lengths of stage 1 (steps) and kinds of stage 2 that are tried."""

    temperature: float
    first: list[int]
    second: list[str]


@dataclass
class DemoSettings:
    """All of ``conf/demo.yaml``; the comments there say what each is."""

    out: str
    corpus: str | None
    seed: int
    threads: int
    vocab_size: int
    seq_length: int
    batch_size: int
    test_batches: int
    check_batches: int
    teacher: ModelSettings
    student: ModelSettings
    kd: KDSettings
    glmd: GLMDSettings


def load_settings(changes: list[str], path: Path = CONFIG) -> DemoSettings:
    """Settings of `path` with `changes` (``key=value``, ``teacher.steps=10``) applied.

    Raises:
        ValueError: an unknown key (the nearest known one is named), a value of another type, or
            a first stage of GLMD that leaves no step for the second.
    """
    defaults = OmegaConf.load(path)
    for change in changes:
        _check_key(change, _keys(defaults))
    try:
        typed = OmegaConf.merge(OmegaConf.structured(DemoSettings), defaults, _dotlist(changes))
        settings = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise ValueError(f"settings of the demo: {error}") from error
    assert isinstance(settings, DemoSettings)
    _check_glmd(settings)
    return settings


def _check_glmd(settings: DemoSettings) -> None:
    steps, glmd = settings.student.steps, settings.glmd
    if not glmd.first or not all(0 < n < steps for n in glmd.first):
        raise ValueError(
            f"glmd.first={glmd.first} must name lengths between 1 and {steps - 1}: both stages "
            f"together have student.steps={steps} steps"
        )
    if not glmd.second or not set(glmd.second) <= set(SECOND_STAGES):
        raise ValueError(f"glmd.second={glmd.second} may hold {', '.join(SECOND_STAGES)}")


def _dotlist(changes: list[str]) -> Any:
    """A path may hold characters that the dot-list grammar gives a meaning: it is set as it is."""
    free = {"corpus", "out"}
    plain = [c for c in changes if c.split("=", 1)[0] not in free]
    config = OmegaConf.from_dotlist(plain)
    for key, value in (c.split("=", 1) for c in changes if c.split("=", 1)[0] in free):
        config[key] = value
    return config


def _check_key(change: str, known: list[str]) -> None:
    key, separator, _ = change.partition("=")
    if not separator or key not in known:
        near = difflib.get_close_matches(key, known, 1, 0.4)
        hint = f"; did you mean {near[0]}=...?" if near else f"; there are {', '.join(known)}"
        raise ValueError(f"{change!r} is not a setting of the demo (key=value){hint}")


def _keys(config: Any, prefix: str = "") -> list[str]:
    """Dotted names of the leaves of `config`."""
    keys: list[str] = []
    for name, value in config.items():
        inner = OmegaConf.is_dict(value)
        keys += _keys(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys
