"""Switches of the reduction over data-parallel ranks: what they become, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from glmkd_nemo.engine.deepspeed_config import uses_deepspeed
from glmkd_nemo.engine.overlap import check_stages, ddp_settings


def test_switches_go_to_megatron():
    assert ddp_settings({"overlap_grad_reduce": False, "bucket_size": None}, 1) == {}
    section = {"name": "megatron", "overlap_grad_reduce": True, "bucket_size": 8}
    assert ddp_settings(section, 2) == {"overlap_grad_reduce": True, "bucket_size": 8}


@pytest.mark.parametrize(
    ("section", "replicas", "words"),
    [
        ({"overlap_grad_reduce": True}, 1, "overlap_grad_reduce=True is about data-parallel"),
        ({"average_in_collective": True}, 1, "average_in_collective=True is about"),
        ({"bucket_size": 8}, 2, "bucket_size=8 has no effect without"),
        ({"overlap_grad_reduce": True, "bucket_size": -1}, 2, "bucket_size=-1: give a number"),
    ],
)
def test_switches_without_effect(section: dict, replicas: int, words: str):
    with pytest.raises(ValueError, match=words):
        ddp_settings(section, replicas)


@pytest.mark.parametrize("engine", ["megatron", "deepspeed"])
def test_each_engine_has_its_own(engine: str):
    section = {"overlap_grad_reduce": True} if engine == "deepspeed" else {"zero_stage": 1}
    with pytest.raises(ValueError, match=f"engine.{next(iter(section))} is a setting of"):
        uses_deepspeed({"engine": {"name": engine, **section}, "model": {}})
    own = {"zero_stage": 1} if engine == "deepspeed" else {"overlap_grad_reduce": True}
    section = {"engine": {"name": engine, **own}, "model": {}}
    assert uses_deepspeed(section) == (engine == "deepspeed")


@pytest.mark.parametrize(("shared", "projections"), [(True, False), (False, True), (False, False)])
def test_copies_on_pipeline_stages(shared: bool, projections: bool):
    objective = torch.nn.Linear(1, 1) if projections else torch.nn.Identity()
    config = SimpleNamespace(share_layers=shared)
    module = SimpleNamespace(
        glm=SimpleNamespace(config=config), step=SimpleNamespace(objective=objective)
    )
    if not shared and not projections:
        check_stages(module)
        return
    with pytest.raises(ValueError, match="before those of all pipeline stages are added up"):
        check_stages(module)
