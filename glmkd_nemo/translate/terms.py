"""Terms of an objective as the nearest recipes of ``conf/method`` and ``conf/aggregator``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glmkd_nemo.replay.flags import Terms
from glmkd_nemo.translate.command import names, section, spelled

TERMS, AGGREGATOR = "model.distill.terms", "model.distill.aggregator"
LABELS = ("kd", "hard")
_OWN_RECIPE = 5  # a recipe that has the method itself may need so many more words
# of every term, and of soft labels: written down here because importing the methods (torch,
# Megatron-Core) takes longer than all the rest; tests compare with the methods' own
_DEFAULTS = {"weight": 1.0, "schedule": None, "after": None, "teacher": None}
_LABEL_DEFAULTS = {"loss": "kl", "mask": "target", "temperature": 1.0, "mask_map": False}
Distill = Mapping[str, Any]


def filled(term: Mapping[str, Any]) -> dict[str, Any]:
    """A term with the keys that the mapping leaves out where they are at their defaults."""
    own = _LABEL_DEFAULTS if term["method"] == "kd" else {}
    of = {"of": "tokens"} if term["method"] in LABELS else {}
    return {**_DEFAULTS, **of, **own, **term}


def recipe(terms: Terms, aggregator: Mapping[str, Any] | None) -> tuple[dict[str, str], list[str]]:
    """How an objective is written with the fewest words.

    Args:
        terms: by name, as the mapping of the original's options gives them.
        aggregator: ``model.distill.aggregator``.

    Returns:
        Choices of the groups ``method`` and ``aggregator``, and overrides.
    """
    wanted = {name.replace("@", "_"): filled(term) for name, term in terms.items()}
    best: tuple[int, dict[str, str], list[str]] | None = None
    own = {term["method"] for term in wanted.values()} - set(LABELS)
    for groups, there in _candidates(aggregator):
        if not {term["method"] for term in there["terms"].values()} <= {*own, *LABELS}:
            continue  # a term without weight would still be built
        changes = _changes(wanted, there) + _aggregator_changes(aggregator, there)
        named = {term["method"] for term in there["terms"].values()}
        size = len(changes) + len(groups) + _OWN_RECIPE * len(own - named)
        if best is None or size < best[0]:
            best = size, groups, changes
    assert best is not None
    return best[1], best[2]


def _candidates(aggregator: Mapping[str, Any] | None) -> list[tuple[dict[str, str], Distill]]:
    found: list[tuple[dict[str, str], Distill]] = []
    combining: list[tuple[dict[str, str], Distill]] = [({}, {})]
    if aggregator is not None:
        combining += [({"aggregator": n}, section(n, "aggregator")) for n in names("aggregator")]
    for method in [None, *names("method")]:
        own = {} if method is None else section(method, "method")
        chosen = {} if method is None else {"method": method}
        for group, there in combining:
            terms = {**own.get("terms", {}), **there.get("terms", {})}
            for name in own.get("terms", {}).keys() & there.get("terms", {}).keys():
                terms[name] = {**own["terms"][name], **there["terms"][name]}
            found.append(({**chosen, **group}, {**there, "terms": terms}))
    return found


def _changes(wanted: Terms, there: Distill) -> list[str]:
    left = {name: filled(term) for name, term in there["terms"].items()}
    names_there = _matched(wanted, left)
    found = []
    for name, term in wanted.items():
        ours, path = names_there.get(name), f"{TERMS}.{names_there.get(name, name)}"
        own = {**term, "after": names_there.get(term["after"], term["after"])}
        before = left[ours] if ours else filled({"method": ""})
        keys = [k for k in own if k not in before or before[k] != own[k]]
        found += [f"{path}.{key}={spelled(own[key])}" for key in keys]
    unused = [name for name in left if name not in names_there.values()]
    return found + [f"{TERMS}.{n}.weight=0.0" for n in unused if left[n]["weight"] != 0]


def _matched(wanted: Terms, there: Terms) -> dict[str, str]:
    """Which term of a recipe stands for a wanted one: of its method, the most alike."""
    found: dict[str, str] = {}
    pairs = sorted(
        (sum(there[ours].get(k) != v for k, v in term.items()), name != ours, name, ours)
        for name, term in wanted.items()
        for ours in there
        if there[ours]["method"] == term["method"]
    )
    for _, _, name, ours in pairs:
        if name not in found and ours not in found.values():
            found[name] = ours
    return found


def _aggregator_changes(wanted: Mapping[str, Any] | None, there: Distill) -> list[str]:
    if wanted is None:
        return []
    before = there.get("aggregator") or {}
    if before.get("name") != wanted["name"]:
        before = {}
    changed = {k: v for k, v in wanted.items() if k not in before or before[k] != v}
    return [f"{AGGREGATOR}.{key}={spelled(value)}" for key, value in changed.items()]
