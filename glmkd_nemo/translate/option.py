"""What became of one option of the original's command lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["value", "flag", "values"]
Fate = Literal["mapped", "no effect", "no equivalent"]


@dataclass(frozen=True)
class Option:
    """An option of the original and its fate here.

    Attributes:
        text: what it becomes, or why it has no effect or no equivalent.
        fate: which of these.
        kind: whether it takes one value, none, or several.
        default: the original's, where a mapped option has one that matters.
        key: the key that its value is copied to, where nothing else is to be done.
    """

    text: str
    fate: Fate = "mapped"
    kind: Kind = "value"
    default: Any = None
    key: str | None = None


Table = dict[str, Option]


def copied(key: str, default: Any = None) -> Option:
    """Its value is that of `key`."""
    return Option(key, default=default, key=key)


def switched(key: str) -> Option:
    """A flag that sets `key` to true."""
    return Option(key, kind="flag", default=False, key=key)


def mapped(text: str, default: Any = None) -> Option:
    """A value that is translated together with others."""
    return Option(text, default=default)


def flag(text: str) -> Option:
    """A flag that is translated together with others."""
    return Option(text, kind="flag")


def several(text: str) -> Option:
    """An option with one or more values."""
    return Option(text, kind="values")


def idle(text: str, kind: Kind = "value") -> Option:
    """An option that changes nothing here."""
    return Option(text, "no effect", kind)


def absent(text: str, kind: Kind = "value") -> Option:
    """An option for which there is nothing here."""
    return Option(text, "no equivalent", kind)
