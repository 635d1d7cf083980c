"""How the weight of a term changes during training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.distill.hint import did_you_mean

KINDS = ("constant", "linear", "stage")


@dataclass
class ScheduleConfig:
    """A factor on a term's weight, as a function of the fraction of training done.

    Attributes:
        kind: ``constant``; ``linear`` from ``start`` to ``end`` between the fractions ``begin`` and
            ``until``; ``stage``: 1 from ``begin`` (included) to ``until`` (excluded), else 0, so
            that one run can go through several stages.
        begin, until: fractions of training, 0 to 1.
        start, end: factors of ``linear``.
    """

    kind: str = "constant"
    begin: float = 0.0
    until: float = 1.0
    start: float = 1.0
    end: float = 0.0


def from_dict(values: Mapping[str, Any]) -> ScheduleConfig:
    """Reads a schedule.

    Raises:
        ValueError: an unknown key (the nearest is named), or a schedule that cannot be followed.
    """
    known = [f.name for f in dataclasses.fields(ScheduleConfig)]
    for key in values:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ValueError(f"a schedule has no key {key!r}; there are {', '.join(known)}.{hint}")
    config = ScheduleConfig(**values)
    check(config)
    return config


def check(config: ScheduleConfig) -> None:
    """Refuses a schedule that cannot be followed.

    Raises:
        ValueError: unknown kind, or fractions that are not ``0 <= begin < until <= 1``.
    """
    if config.kind not in KINDS:
        raise ValueError(f"schedule {config.kind!r} is unknown: {', '.join(KINDS)}.")
    if not 0.0 <= config.begin < config.until <= 1.0:
        raise ValueError(
            f"a schedule from {config.begin} to {config.until}: fractions of training must be "
            "0 <= begin < until <= 1."
        )


def factor(config: ScheduleConfig, progress: float) -> float:
    """The factor at ``progress``, the fraction of training done (step / max_steps, below 1)."""
    if config.kind == "stage":
        return 1.0 if config.begin <= progress < config.until else 0.0
    if config.kind == "linear":
        done = (progress - config.begin) / (config.until - config.begin)
        return config.start + (config.end - config.start) * min(max(done, 0.0), 1.0)
    return 1.0
