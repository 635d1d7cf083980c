"""The recipes of conf/recipe: consistent, strict, all there; and all of them run in toy size."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from glmkd_nemo.config.finetune import FinetuneSchema
from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.run import aggregator_fields, open_sections, task_fields, term_fields
from glmkd_nemo.config.schema import PretrainSchema
from glmkd_nemo.config.strict import check
from glmkd_nemo.recipe import main
from glmkd_nemo.recipe.planner import Planner
from glmkd_nemo.recipe.settings import SCALES, load_settings, names
from glmkd_nemo.recipe.stage import Recipe, Stage
from glmkd_nemo.tune.settings import CONF

SCHEMAS = {"pretrain": PretrainSchema, "finetune": FinetuneSchema}
SINGLE = "glmd_vc kd pd tinybert minilmv2 minilm distilbert pkd rail_kd mgskd diito sid alp_kd ckd"
SINGLE += " theseus universal_kd lrc_bert annealing_kd mobilebert continuation_kd glmd"
SEVERAL = "tmkd mt_bert uncertainty rl_kd dgkd"
OTHERS = "albert takd random_data combination glmd_al_110m_66m glmd_vc_10b_2b tinybert_340m_66m"


@pytest.fixture(scope="module")
def recipes() -> dict[tuple[str, str], Recipe]:
    """All, at both scales."""
    found = {}
    for name in names():
        _, settings = load_settings(name, [])
        assert settings.title, f"{name} has no title"
        for scale in SCALES:
            own = dataclasses.replace(settings, scale=scale)
            found[name, scale] = Planner(name, own).recipe()
    return found


def test_there_is_one_for_every_group_of_commands() -> None:
    assert set(f"{SINGLE} {SEVERAL} {OTHERS}".split()) == set(names())


def test_stages_start_from_what_stages_before_them_leave(
    recipes: dict[tuple[str, str], Recipe],
) -> None:
    for key, recipe in recipes.items():
        before: dict[str, Stage] = {}
        outside = {path for _, path in recipe.inputs}
        for stage in recipe.stages:
            assert set(stage.needs) <= set(before), (key, stage.name)
            models = {str(before[name].model) for name in stage.needs} | outside
            for argument in stage.arguments:
                name, _, value = argument.partition("=")
                if name.endswith("restore_from_path"):
                    assert value in models, (key, stage.name, argument)
                assert "{" not in value, (key, stage.name, argument)
            before[stage.name] = stage
        results = [stage.result for stage in recipe.stages]
        assert len(set(results)) == len(results)


def test_both_scales_are_the_same_graph(recipes: dict[tuple[str, str], Recipe]) -> None:
    """Toy size adds the data, and the teachers that are there already in full size."""
    for name in names():
        full, tiny = (recipes[name, scale].stages for scale in SCALES)
        extra = {stage.name for stage in tiny} - {stage.name for stage in full}
        assert extra <= {"data", "teacher", "base", "large"}, name
        assert {stage.name for stage in full} <= {stage.name for stage in tiny}


@functools.cache
def parsed(argument: str) -> Any:
    value = argument.partition("=")[2]
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]  # type: ignore[index,call-overload]


@functools.cache
def group(name: str, option: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(CONF / name / f"{option}.yaml"))
    return found


def composed(stage: Stage) -> dict[str, Any]:
    """Groups and overrides of a stage as one configuration, without Hydra: it is slow."""
    config: Any = OmegaConf.create({"model": {"distill": {}}})
    given = {text.partition("=")[0]: parsed(text) for text in stage.arguments}
    for name, place in {
        "method": "model.distill",
        "aggregator": "model.distill",
        "task": "task",
    }.items():
        if given.get(name):
            OmegaConf.update(config, place, group(name, given[name]), force_add=True)
    for key, value in given.items():
        if not (CONF / key).is_dir() and not key.startswith("exp_manager"):
            OmegaConf.update(config, key, value, force_add=True)
    config.data_root = config.get("data_root", "")
    if stage.script == "pretrain":
        del config["data_root"]
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


@pytest.mark.parametrize("script", SCHEMAS)
def test_scripts_accept_all_overrides(recipes: dict[tuple[str, str], Recipe], script: str) -> None:
    schema = SCHEMAS[script]
    stages = [s for r in recipes.values() for s in r.stages if s.script == script]
    arguments = sorted({argument for stage in stages for argument in stage.arguments})
    check_overrides(arguments, schema, CONF, open_sections())
    seen = set()
    for stage in stages:
        pairs = (argument.partition("=") for argument in stage.arguments)
        key = frozenset((name, value if (CONF / name).is_dir() else "") for name, _, value in pairs)
        if key not in seen:  # values were checked above
            seen.add(key)
            check(composed(stage), schema, {}, term_fields, aggregator_fields, task_fields)


def test_published_values_arrive(recipes: dict[tuple[str, str], Recipe]) -> None:
    stages = {s.name: set(s.arguments) for s in recipes["glmd_al_110m_66m", "full"].stages}
    assert len(stages) == 2 + 3 * 9
    assert {"model.embedding_size=384", "trainer.max_steps=150000"} <= stages["pretrain"]
    assert {"model.global_batch_size=32", "model.optim.lr=2e-05", "model.seed=1759"} <= stages[
        "logits_wsc"
    ]
    assert {"model.optim.lr=5e-06", "epochs=15", "task.seq_length=512"} <= stages[
        "finetune_multirc"
    ]
    logits = "runs/recipe/glmd_al_110m_66m/logits_rte/last.nemo"
    assert f"restore_from_path={logits}" in stages["finetune_rte"]
    big = {s.name: s for s in recipes["glmd_vc_10b_2b", "full"].stages}
    assert (big["pretrain"].nodes, big["pretrain"].devices) == (1, 8)
    assert {"model.data.window=512", "model.encoder_seq_length=640"} <= set(
        big["pretrain"].arguments
    )
    wsc = {s.name: set(s.arguments) for s in recipes["tinybert_340m_66m", "full"].stages}
    assert "model.distill.terms.hard.loss=mix" in wsc["teacher_ft_wsc"]
    assert "task.length_penalty=1.0" in wsc["layers_wsc"]
    for name, arguments in wsc.items():
        given = dict(argument.split("=", 1) for argument in arguments)
        if "task" in given:  # GLMKD's rate ends at a tenth
            lr, end = float(given["model.optim.lr"]), float(given["model.optim.sched.min_lr"])
            assert end == pytest.approx(lr / 10), name
    assert "model.tensor_model_parallel_size=4" in big["pretrain"].arguments


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_run_in_toy_size(tmp_path: Path) -> None:
    assert main.main(["recipe=all", "scale=tiny", f"out={tmp_path}"]) == 0
    for name in names():
        notes = json.loads((tmp_path / name / "recipe.json").read_text())["stages"]
        trained = {n: note for n, note in notes.items() if n not in ("data", "vocabulary")}
        assert trained
        for stage, note in trained.items():
            assert note["state"] == "done", (name, stage)
            assert math.isfinite(note["loss"]), (name, stage)
