"""Settings of the comparison, read from ``conf/compare.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glmkd_nemo.demo.settings import ModelSettings

CONF = Path(__file__).resolve().parents[2] / "conf"


@dataclass
class CompareSettings:
    """All of ``conf/compare.yaml``; the comments there say what each is."""

    out: str
    steps: int
    batch_size: int
    first_stage: float
    second_teacher: ModelSettings
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_settings(changes: dict[str, Any], path: Path = CONF / "compare.yaml") -> CompareSettings:
    """Settings of `path` with `changes` applied; ``None`` changes nothing.

    Raises:
        ValueError: a key or a value that cannot be.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        schema = OmegaConf.structured(CompareSettings)
        settings = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.load(path), given))
    except OmegaConfBaseException as error:
        raise ValueError(f"settings of the comparison: {error}") from error
    assert isinstance(settings, CompareSettings)
    if min(settings.steps, settings.batch_size) < 1:
        raise ValueError("--steps and --batch-size must be at least 1.")
    if not 0.0 < settings.first_stage < 1.0:
        raise ValueError(f"first_stage={settings.first_stage} must be between 0 and 1.")
    return settings
