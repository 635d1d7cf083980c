"""Terms for each of several teachers, recipes of several teachers, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.run import CONF, aggregator_fields, open_sections, term_fields
from glmkd_nemo.config.schema import PretrainSchema
from glmkd_nemo.config.strict import ConfigError, check
from glmkd_nemo.distill.aggregators import NAMES, aggregator_class, aggregator_from_dict
from glmkd_nemo.distill.method import ModelShape, StepContext
from glmkd_nemo.distill.objective import Objective
from glmkd_nemo.distill.terms import terms_from_dict
from tests.distill.aggregator_cases import STUDENT, TEACHERS, objective

RECIPES = sorted((CONF / "aggregator").glob("*.yaml"))
MEAN = {"name": "mean"}


def test_a_term_is_one_for_each_teacher_with_projections_of_its_size():
    found = objective(MEAN)
    assert list(found.terms) == ["soft@t0", "soft@t1", "states@t0", "states@t1", "hard"]
    sizes = {n: tuple(p.shape) for n, p in found.named_parameters() if n.endswith("weight")}
    assert sizes == {
        "methods.states@t0.fit_dense.weight": (32, 16),
        "methods.states@t1.fit_dense.weight": (24, 16),
    }
    assert {p.teacher for p in found.parts(StepContext())} == {"t0", "t1", None}


def test_a_term_may_name_its_teacher():
    found = objective(MEAN, {"a": {"method": "kd", "teacher": "t1"}, "b": {"method": "kd"}})
    assert {n: t.teacher for n, t in found.terms.items()} == {"a": "t1", "b@t0": "t0", "b@t1": "t1"}


def test_the_semantic_teacher_does_not_teach():
    found = objective({"name": "rl_kd", "semantic_teacher": 1})
    assert list(found.terms) == ["soft@t0", "states@t0", "hard"]


def test_instances_of_a_term_share_what_describes_the_student():
    equal = dict.fromkeys(("t0", "t1"), ModelShape(4, 16, 4, 64))
    found = objective(MEAN, {"x": {"method": "rail_kd"}}, teachers=equal)
    methods = [found.methods[f"x@{t}"] for t in equal]
    assert [m.place for m in methods] == [(0, 2), (1, 2)]
    shared = type(methods[0]).shared
    assert shared
    for name in shared:
        assert getattr(methods[0], name) is getattr(methods[1], name)
    names = [name for name, _ in found.named_parameters()]
    assert len(names) == len({id(p) for p in found.parameters()})


def test_a_later_term_waits_for_all_teachers(monkeypatch: pytest.MonkeyPatch):
    found = objective(MEAN, {"x": {"method": "kd"}, "y": {"method": "hard", "after": "x"}})

    def active() -> set[str]:
        return {p.name for p in found.parts(StepContext())}

    assert "y/hard" in active()
    monkeypatch.setattr(found.methods["x@t1"], "done", lambda context: False)
    assert active() == {"x@t0/soft", "x@t1/soft"}
    with pytest.raises(ValueError, match="waits for 'z'"):
        objective(MEAN, {"x": {"method": "kd", "after": "z"}})


@pytest.mark.parametrize(
    ("aggregator", "message"),
    [
        ({}, "has no name"),
        ({"name": "maen"}, r"no aggregator is called 'maen'.*Did you mean 'mean'\?"),
        ({"name": "mean", "survivl": 1}, r"\(mean\) has no key 'survivl'.*'survival'"),
        ({"name": "mean", "survival": 0.0}, "survival 0.0 must be above 0"),
        ({"name": "mt_bert", "of": "words"}, "of 'words' is unknown: tokens, classes"),
        ({"name": "uncertainty", "order": [0, 0]}, "each teacher's number"),
        ({"name": "uncertainty", "mask": "pad"}, "mask 'pad' is unknown"),
        ({"name": "rl_kd", "phase": "first"}, "phase 'first' is unknown: average, rl"),
        ({"name": "rl_kd", "reward": 3}, "reward 3 is unknown"),
        ({"name": "rl_kd", "alpha": 0.0}, "alpha 0.0 must be"),
        ({"name": "rl_kd", "semantic_teacher": None}, "phase rl needs semantic_teacher"),
        ({"name": "rl_kd", "semantic_teacher": 2}, "must be one of several teachers"),
        ({"name": "mixture"}, "members is empty"),
        ({"name": "mixture", "members": [{"name": "rl_kd"}]}, "cannot be mixed"),
        ({"name": "mixture", "members": [{"name": "mean", "sm": 1}]}, "no key 'sm'.*'sum'"),
    ],
)
def test_what_is_refused(aggregator: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        aggregator_from_dict(aggregator, STUDENT, list(TEACHERS.values()))


# ---- recipes and the configuration --------------------------------------------------------


def composed(*choices: str) -> Any:
    from nemo.core.config import hydra_runner  # noqa: F401  (registers the resolvers of conf/)

    with initialize_config_dir(str(CONF), version_base=None):
        given = ["model.tokenizer.path=v", "model.data.prefixes=[t]", *choices]
        return OmegaConf.to_container(compose("pretrain", overrides=given), resolve=True)


def checked(config: Any) -> None:
    check(config, PretrainSchema, open_sections(), term_fields, aggregator_fields)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_valid_lists_all_options_and_builds(path: Path):
    config = composed(
        f"aggregator={path.stem}", "method=kd" if path.stem == "mean" else "data=block_lm"
    )
    checked(config)
    distill = config["model"]["distill"]
    _lists_all(distill["aggregator"])
    terms = terms_from_dict(distill, TEACHERS)
    found = Objective(terms, STUDENT, TEACHERS, 0, distill["aggregator"])
    assert found.possible_parts()
    assert path.read_text().startswith("# @package model.distill\n")


def _lists_all(section: dict[str, Any]) -> None:
    options = {f.name for f in dataclasses.fields(aggregator_class(section["name"]).Config)}
    assert section.keys() == options | {"name"}
    for member in section.get("members", ()):
        _lists_all(member)


def test_there_is_a_recipe_of_each_aggregator():
    named = {yaml.safe_load(path.read_text())["aggregator"]["name"] for path in RECIPES}
    assert named == set(NAMES)


@pytest.mark.parametrize(
    ("aggregator", "words"),
    [
        ({"name": "maen"}, "no aggregator is called 'maen'.*'mean'"),
        ({"survival": 1.0}, "model.distill.aggregator names no aggregator: add .*name=mean"),
        ({"name": "rl_kd", "alhpa": 1}, r"aggregator.alhpa \(rl_kd\); did you mean alpha"),
        (
            {"name": "mixture", "members": [{"name": "mean"}, {"name": "mt_bert", "off": 1}]},
            r"members\[1\].off \(mt_bert\); did you mean of",
        ),
    ],
)
def test_wrong_keys_are_named(aggregator: dict[str, Any], words: str):
    config = composed("method=kd")
    config["model"]["distill"]["aggregator"] = aggregator
    with pytest.raises(ConfigError, match=words):
        checked(config)


def test_options_may_be_given_on_the_command_line():
    arguments = ["aggregator=dgkd", "model.distill.aggregator.survival=0.5"]
    spelled = check_overrides(arguments, PretrainSchema, CONF, {})
    assert spelled == ["aggregator=dgkd", "++model.distill.aggregator.survival=0.5"]
    assert composed(*spelled)["model"]["distill"]["aggregator"]["survival"] == 0.5
    with pytest.raises(ConfigError, match="aggregator=dkgd is unknown; did you mean dgkd"):
        check_overrides(["aggregator=dkgd"], PretrainSchema, CONF, {})


def test_the_generator_stays_where_it_was():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    objective({"name": "rl_kd"})
    assert torch.equal(before, torch.get_rng_state())
