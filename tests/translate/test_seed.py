"""Every command of the original's README: translated, accepted here, with the mapped objective."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from glmkd_nemo.distill.aggregators import aggregator_class
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.objective import TermConfig
from glmkd_nemo.translate import distill as distillation
from glmkd_nemo.translate import translate
from tests.translate.seed import commands
from tests.translate.strict import load

COMMANDS = commands()


def filled(options: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Options with the defaults of a dataclass."""
    found = {}
    for field in dataclasses.fields(options):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return {**found, **{k: v for k, v in given.items() if v is not None or k not in found}}


def term(given: dict[str, Any]) -> dict[str, Any]:
    """A term in full."""
    own = {k: v for k, v in filled(TermConfig, {}).items() if k not in ("options", "schedule")}
    return {**own, **filled(method_class(given["method"]).Config, given)}


def aggregator(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """An aggregator in full."""
    if given is None:
        return None
    return {**filled(aggregator_class(given["name"]).Config, given), "name": given["name"]}


def in_order(terms: dict[str, dict[str, Any]]) -> list[list[tuple[str, str]]]:
    """Terms that count, without their names."""
    full = (term(one) for one in terms.values() if one.get("weight", 1.0) != 0)
    return sorted(sorted((k, plain(v)) for k, v in one.items()) for one in full)


def plain(value: Any) -> str:
    """A value as text, the same for 1 and 1.0."""
    if isinstance(value, dict):
        return str(sorted((k, plain(v)) for k, v in value.items()))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(float(value) if number else value)


@pytest.mark.parametrize(("title", "text"), COMMANDS, ids=[title for title, _ in COMMANDS])
def test_command(title: str, text: str, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[Any, Any]] = []
    mapped = distillation.objective

    def recorded(*arguments: Any) -> Any:
        asked.append(mapped(*arguments))
        return asked[-1]

    monkeypatch.setattr(distillation, "objective", recorded)
    found = translate(text)
    runs = [cfg for command in found for cfg in load(command)]
    assert runs or title.startswith("Model parallelism")
    written = [cfg for cfg in runs if (cfg["model"].get("distill") or {}).get("terms")]
    assert len(written) == len(asked), "an objective of the original's is missing"
    ours = sorted(
        (in_order(cfg["model"]["distill"]["terms"]), plain(aggregator(_combining(cfg))))
        for cfg in written
    )
    theirs = sorted((in_order(terms), plain(aggregator(combining))) for terms, combining in asked)
    assert ours == theirs


def _combining(cfg: dict[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] | None = cfg["model"]["distill"].get("aggregator")
    return found


def test_all_are_there():
    assert len(COMMANDS) == 59
    assert sum("auto_tune" in text for _, text in COMMANDS) == 3
