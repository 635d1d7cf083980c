"""The combination of TinyBERT, MiniLMv2, MiniLM and DistilBERT: the plain sum of single terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from glmkd_nemo.distill.method import ModelShape, StepContext
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.terms import with_answers
from glmkd_nemo.replay.flags import Setting, translation_of
from glmkd_nemo.replay.flags.predictions import prediction_terms
from tests.distill import kit

STUDENT, TEACHER = ModelShape(2, 16, 4, kit.VOCAB), ModelShape(4, 16, 4, kit.VOCAB)
CONF = Path(__file__).resolve().parents[2] / "conf" / "method"
pytestmark = pytest.mark.usefixtures("alone")
Terms = dict[str, dict[str, Any]]


def recipe(name: str) -> Terms:
    """The terms of a YAML file on a task of choices, at the size of the models here."""
    terms = with_answers(yaml.safe_load((CONF / f"{name}.yaml").read_text())["terms"], "classes")
    if "minilmv2" in terms:
        terms["minilmv2"]["relation_heads"] = 8
    return terms


def objective(terms: Terms) -> Objective:
    read = {name: term_from_dict(name, node, ["t0"]) for name, node in terms.items()}
    return Objective(read, STUDENT, {"t0": TEACHER}, seed=5)


def run(terms: Terms, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, float], dict[str, Any]]:
    """Values and gradients of a step on two micro-batches."""
    built = objective(terms).double()
    monkeypatch.setattr(kit, "fitting", lambda name, seed: built)
    return kit.Bench("these terms").run([[0, 1], [2, 3]])


def test_the_total_is_the_sum_of_single_terms(monkeypatch: pytest.MonkeyPatch):
    terms = recipe("combination")
    values, gradients = run(terms, monkeypatch)
    total, parts = 0.0, {}
    sums = {name: torch.zeros_like(g) for name, g in gradients.items()}
    for name, term in terms.items():
        single, own = run({name: term}, monkeypatch)
        total += single.pop("loss")
        parts |= single
        for key, gradient in own.items():
            sums[key] += gradient
    assert values.pop("loss") == pytest.approx(total, rel=1e-12)
    assert values == pytest.approx(parts, rel=1e-12)
    for key, gradient in gradients.items():
        error = float((gradient - sums[key]).norm() / sums[key].norm().clamp(min=1e-12))
        assert error < 1e-6, key  # DDP sums micro-batches in fp32


def test_weights_count_once(monkeypatch: pytest.MonkeyPatch):
    values, _ = run(recipe("combination"), monkeypatch)
    weights = {"soft/soft": 5.0, "hard/hard": 2.0}
    expected = sum(v * weights.get(name, 1.0) for name, v in values.items() if name != "loss")
    assert values["loss"] == pytest.approx(expected, rel=1e-12)
    assert {name.partition("/")[0] for name in values} - {"loss"} == {
        "tinybert", "minilmv2", "minilm", "distilbert", "soft", "hard"
    }  # fmt: skip


def active(terms: Terms, progress: float) -> dict[str, float]:
    parts = objective(terms).parts(StepContext(step=int(progress * 100), max_steps=100))
    return {part.name: part.weight for part in parts}


def test_stages_follow_each_other_in_one_run():
    """The run of both stages on a task is, in each half, the recipe of that stage."""
    both = recipe("combination_ft")
    renamed = {"first_hard/hard": "hard/hard", "second_hard/hard": "hard/hard"}
    for stage, progress in (("combination_ft1", (0.0, 0.49)), ("combination_ft2", (0.5, 0.99))):
        expected = active(recipe(stage), 0.0)
        for at in progress:
            found = {renamed.get(name, name): w for name, w in active(both, at).items()}
            assert found == expected, (stage, at)


def test_recipes_of_both_stages_agree_with_the_run_of_both():
    both = recipe("combination_ft")
    for stage in ("combination_ft1", "combination_ft2"):
        for name, term in recipe(stage).items():
            prefix = {"combination_ft1": "first_hard", "combination_ft2": "second_hard"}[stage]
            found = dict(both[prefix if name == "hard" else name])
            assert found.pop("schedule")["kind"] == "stage"
            assert found == term


SEED = {
    "distill_temperature": "2",
    "minilmv2_relation_heads": "8",
    "minilmv2_teacher_layer": "4",
    "distilbert_alpha_ce": "5",
    "distilbert_alpha_mlm": "2",
    "distilbert_alpha_cos": "1",
    "distilbert_cos_mask_padding": True,
    "mixbaseline_inter_bl": "TinyBERT,MiniLMv2,MiniLM,DistilBERT",
}


def translated(flags: dict[str, Any], stage: str) -> Terms:
    setting = Setting(stage, 2, (4,))
    return translation_of("mixbaseline").terms(flags, setting, prediction_terms(flags, setting))


def settings_of(terms: Terms) -> dict[str, Any]:
    """Options as the methods see them; how a term is called, and layers counted, may differ."""
    found = objective(terms)
    parts = {
        p.name.replace("kd/", "soft/").removeprefix("distilbert_"): (
            p.weight,
            p.part.student,
            p.part.teacher,
        )
        for p in found.parts(StepContext())
    }
    options = {
        name: term.options
        for name, term in found.terms.items()
        if term.method in ("kd", "distilbert", "tinybert")
    }
    for own in options.values():
        if getattr(own, "of", None) == "classes":
            own.mask = "none"  # whatever it says: it is of tokens
    return {"parts": parts, "options": sorted(map(str, options.values()))}


def test_translation_of_the_seeds_first_stage_is_the_recipe():
    found = translated({**SEED, "mixbaseline_pre_bl_pt_soft": "DistilBERT"}, "pt")
    assert settings_of(found) == settings_of(recipe("combination"))


def test_translation_of_the_seeds_second_stage_is_the_recipe():
    found = translated({**SEED, "mixbaseline_pre_bl_ft_soft": "DistilBERT"}, "ft_multi")
    expected = recipe("combination_ft1")
    assert expected.pop("distilbert")["weight"] == 0.0
    assert settings_of(found) == settings_of(expected)


def test_translation_of_the_seeds_third_stage_is_the_recipe():
    flags = {
        "mixbaseline_wo_inter": True,
        "tinybert_wo_inter": True,
        "distill_ft_soft": True,
        "distill_ft_hard": True,
        "distill_temperature": "10",
        "mixbaseline_tinybert_t": "1",
        "mixbaseline_pre_bl_ft_soft": "TinyBERT",
    }
    found = translated(flags, "ft_multi")
    assert found.keys() == {"soft", "hard", "tinybert_soft"}
    assert settings_of(found) == settings_of(recipe("combination_ft2"))


@pytest.mark.parametrize(
    ("stage", "flag", "labels"),
    [
        ("pt", "distill_pt_soft", ""),
        ("pt", "distill_pt_soft", "DistilBERT"),
        ("pt", "distill_pt_hard", ""),
        ("ft_multi", "distill_ft_hard", "TinyBERT,DistilBERT"),
    ],
)
def test_translation_refuses_labels_without_effect(stage: str, flag: str, labels: str):
    option = f"mixbaseline_pre_bl_{stage[:2]}_soft"
    with pytest.raises(ValueError, match=f"--{flag} has no effect"):
        translated({flag: True, option: labels}, stage)


def test_common_labels_stand_beside_those_of_distilbert():
    flags = {"distill_ft_soft": True, "mixbaseline_pre_bl_ft_soft": "DistilBERT"}
    found = translated({**SEED, **flags, "mixbaseline_inter_bl": ""}, "ft_multi")
    assert found.keys() == {"soft", "distilbert_soft", "distilbert_hard"}


@pytest.mark.parametrize("path", sorted(CONF.glob("combination*.yaml")), ids=lambda p: p.stem)
def test_recipes_build(path: Path):
    assert path.read_text().startswith("# @package model.distill\n")
    assert objective(recipe(path.stem)).possible_parts()
