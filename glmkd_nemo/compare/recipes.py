"""What is compared: the recipes of ``conf/method`` and ``conf/aggregator``, found by listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkd_nemo.compare.settings import CONF
from glmkd_nemo.distill.hint import did_you_mean

GROUPS = ("method", "aggregator")


@dataclass(frozen=True)
class Entry:
    """One recipe: a file ``conf/<group>/<name>.yaml``; aggregators have several teachers."""

    group: str
    name: str

    @property
    def key(self) -> str:
        """Name of its stage."""
        return self.name if self.group == "method" else f"teachers_{self.name}"

    @property
    def label(self) -> str:
        """What the reader sees."""
        return self.name if self.group == "method" else f"{self.name} (2 teachers)"


def entries(names: list[str], conf: Path = CONF) -> list[Entry]:
    """The recipes called `names`, or all: methods first.

    Raises:
        ValueError: a name that no recipe has, with the nearest one.
    """
    there_are = [
        Entry(group, path.stem)
        for group in GROUPS
        for path in sorted((conf / group).glob("*.yaml"))
        if not _is_for_tasks(path)
    ]
    known = {entry.name for entry in there_are}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"no recipe is called {name!r}; there are {sorted(known)}.{hint}")
    return [entry for entry in there_are if not names or entry.name in names]


def _is_for_tasks(path: Path) -> bool:
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(OmegaConf.load(path)) or {}
    return any(term.get("of") == "classes" for term in found.get("terms", {}).values())


def read(
    entry: Entry,
    options: Mapping[str, Mapping[str, Any]],
    students: Sequence[tuple[int, ...]],
    teachers: Mapping[str, tuple[int, ...]],
) -> dict[str, Any]:
    """The section ``model.distill`` of a recipe, what it learns, and the student that it takes.

    Heavy imports: to be run in a child (see :mod:`glmkd_nemo.demo.process`).

    Args:
        entry: which one.
        options: changed options, by method.
        students: layers, width, heads, vocabulary of students; the first that fits is taken.
        teachers: the same of teachers, by name.

    Returns:
        ``distill`` (plain values), ``predicts`` (whether it has labels or soft labels) and
        ``student`` (which one).

    Raises:
        ValueError: the recipe fits none of these students.
    """
    from hydra import compose, initialize_config_dir
    from nemo.core.config import hydra_runner  # noqa: F401  (registers the resolvers of conf/)
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("pretrain", overrides=_overrides(entry))
    distill: Any = OmegaConf.to_container(config.model.distill, resolve=True)
    for term in distill["terms"].values():
        term.update(options.get(term["method"], {}))
    refused: list[ValueError] = []
    for number, student in enumerate(students):
        try:
            predicts = _predicts(distill, student, teachers)
        except ValueError as error:
            refused.append(error)
        else:
            return {"distill": distill, "predicts": predicts, "student": number}
    raise refused[0]


def _overrides(entry: Entry) -> list[str]:
    """Hydra's choice of the recipe; an aggregator without terms of its own combines KD's."""
    path = CONF / entry.group / f"{entry.name}.yaml"
    group_is_listed = f"{entry.group}:" in (CONF / "pretrain.yaml").read_text(encoding="utf-8")
    choice = f"{'' if group_is_listed else '+'}{entry.group}={entry.name}"
    has_terms = "\nterms:" in path.read_text(encoding="utf-8")
    return [choice] if has_terms else ["method=kd", choice]


def _predicts(
    distill: Mapping[str, Any],
    student: tuple[int, ...],
    teachers: Mapping[str, tuple[int, ...]],
) -> bool:
    from glmkd_nemo.distill.method import ModelShape
    from glmkd_nemo.distill.objective import Objective
    from glmkd_nemo.distill.terms import terms_from_dict
    from glmkd_nemo.engine.strategy import join_alone

    join_alone()  # methods ask for the tensor-parallel size
    shapes = {name: ModelShape(*sizes) for name, sizes in teachers.items()}
    terms = terms_from_dict(distill, shapes)
    several = distill.get("aggregator")
    objective = Objective(terms, ModelShape(*student), shapes, aggregator=several)
    return any(planned.part.prediction for planned in objective.possible_parts())


def sort_vocabulary(corpus: Path, table: Path) -> None:
    """Writes the vocabulary of the demo's text by frequency, for ``model.vocab_map.table``.

    Args:
        corpus: the demo's folder of text and tokenizer.
        table: the file.
    """
    from glmkd_nemo.data.sort_vocab import sort_vocab
    from glmkd_nemo.data.tokenizer import build_tokenizer

    tokenizer = build_tokenizer({"type": "bert", "path": str(corpus / "tokenizer")})
    sort_vocab([corpus / "train"], table, tokenizer, overwrite=True, progress=False)


def in_two_stages(
    terms: Mapping[str, Mapping[str, Any]], share: float, later: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """`terms` for the first `share` of training, then the terms `later`."""
    first = {"kind": "stage", "begin": 0.0, "until": share}
    second = {"kind": "stage", "begin": share, "until": 1.0}
    before = {name: {"schedule": first, **term} for name, term in terms.items()}
    after = {f"then_{name}": {**term, "schedule": second} for name, term in later.items()}
    return {**before, **after}
