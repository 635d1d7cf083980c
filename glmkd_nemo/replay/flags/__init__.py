"""The reference's command-line options as terms of our objective: one file per student model."""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Flags = Mapping[str, Any]
Terms = dict[str, dict[str, Any]]
Draws = Callable[[Mapping[str, Any], Mapping[str, Any], tuple[object, ...]], random.Random]


class NotYet(Exception):
    """A case that needs something which this version does not build; the message says what."""


@dataclass(frozen=True)
class Setting:
    """What a translation may depend on besides the options.

    Attributes:
        stage: ``pt``, ``ft_lm``, ``ft_multi`` or ``ft_single``.
        student_layers: depth of the student.
        teacher_layers: depth of each teacher.
        classes: answers of an example on a task.
    """

    stage: str
    student_layers: int
    teacher_layers: tuple[int, ...]
    classes: int = 0


@dataclass(frozen=True)
class Logged:
    """Our part behind a value that the reference logs.

    Attributes:
        part: ``term/part``; ``\\1`` stands for the first group of the pattern, and ``*`` for any
            characters: the value is the sum over all such parts.
        weighted: whether the reference logs it after multiplying with its weight ...
        term_weighted: ... and whether that includes the weight of the whole term.
        without: the factor in the weight, if any, that is not in what was logged.
    """

    part: str
    weighted: bool = True
    term_weighted: bool = True
    without: Callable[[Flags], float] | None = None


@dataclass(frozen=True)
class Translation:
    """How one student model of the reference is written here.

    Attributes:
        terms: ``terms(flags, setting, predictions)``: all terms; ``predictions`` are the
            prediction terms (``soft``, ``hard``, ``logits``) that the common options ask for.
        parts: by regular expression of the logged name, without the teacher's suffix.
        parameters: our name (``term.name inside the method``) by regular expression of the
            original one without ``student.``; ``@t0`` and so on tell several teachers apart.
        draws: ``draws(record, tensors, what)``: what ``context.draws(*what)`` has to give for the
            recorded choices to be made again; by default the teacher layers that were tapped.
    """

    terms: Callable[[Flags, Setting, Terms], Terms]
    parts: Mapping[str, Logged] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    draws: Draws | None = None


def parse(flags: Iterable[str]) -> dict[str, str | bool]:
    """``["--a=1", "--b"] -> {"a": "1", "b": True}``."""
    pairs = (flag.removeprefix("--").partition("=") for flag in flags)
    return {name: value if sep else True for name, sep, value in pairs}


def translation_of(student_model: str) -> Translation:
    """The translation of a student model.

    Raises:
        NotYet: there is none.
    """
    try:
        module = importlib.import_module(f"{__name__}.methods.{student_model}")
    except ModuleNotFoundError as error:
        raise NotYet(f"method {student_model}") from error
    found: Translation = module.TRANSLATION
    return found


def matched(name: str, table: Mapping[str, Any]) -> tuple[re.Match[str], Any] | None:
    """The entry whose pattern matches the whole of ``name``."""
    for pattern, value in table.items():
        if match := re.fullmatch(pattern, name):
            return match, value
    return None
