"""Fine-tuning stages of conf/recipe at full scale: their terms are those that the run will have."""

from typing import Any
from unittest import mock

import pytest
import torch
from megatron.core import parallel_state

from glmkd_nemo.plan import build
from glmkd_nemo.plan.request import planned_run
from glmkd_nemo.plan.settings import PlanSettings, load_settings
from glmkd_nemo.recipe.plan import load_recipe
from glmkd_nemo.recipe.settings import names
from glmkd_nemo.recipe.stage import Stage


def planned(recipe: str, stage: str) -> tuple[list[str], dict[str, Any]]:
    """Names of what the losses of a stage compare, and its section ``model``; no model is built."""
    settings: PlanSettings = load_settings([f"recipe={recipe}", f"stage={stage}"])
    request = planned_run(settings, [], []).request
    model = dict(request.model)
    tensor = int(model.get("tensor_model_parallel_size") or 1)
    size = mock.patch.object(
        parallel_state, "get_tensor_model_parallel_world_size", return_value=tensor
    )
    with torch.device("meta"), size:
        objective = build._objective(model, request, build._config(model, request.vocab_size))
    parts = [] if objective is None else objective.possible_parts()
    return [key[0] for part in parts for key in part.part.student], model


def shape(stage: Stage) -> tuple[frozenset[str], bool]:
    """What decides on a stage's terms: methods, what they are of, and whether words are written."""
    keys = ("method", "aggregator", "of", "mask")
    words = (argument for argument in stage.arguments if not argument.startswith("model.teachers"))
    terms = frozenset(word for word in words if word.split("=")[0].split(".")[-1] in keys)
    return terms, "task=wsc_generative" in stage.arguments


@pytest.mark.parametrize(
    ("recipe", "stage", "of"),
    [
        ("glmd_vc_10b_2b", "finetune_record", {"classes"}),
        ("glmd_al_110m_66m", "finetune_wsc_generative", {"logits"}),
    ],
)
def test_answers_are_what_the_task_asks_for(recipe: str, stage: str, of: set[str]) -> None:
    assert set(planned(recipe, stage)[0]) == of


@pytest.mark.slow
@pytest.mark.parametrize("recipe", names())
def test_every_fine_tuning_stage_has_terms(recipe: str) -> None:
    stages = load_recipe(recipe, []).stages
    shapes = {shape(stage): stage.name for stage in stages if stage.script == "finetune"}
    for name in shapes.values():
        taps, model = planned(recipe, name)
        assert taps or not (model.get("distill") or {}).get("terms"), name
