"""Similarity of layers against plain torch, in any layout; the callback around it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.config.schema import PretrainSchema
from glmkd_nemo.config.strict import known_path
from glmkd_nemo.distill.analysis import layers_read, pairs, similarities
from glmkd_nemo.distill.method import Batch, ModelShape
from glmkd_nemo.distill.taps import HEADS, Tap
from glmkd_nemo.engine.analysis import LayerSimilarity, callbacks_of
from glmkd_nemo.engine.analysis_plot import heat_map
from glmkd_nemo.models.logits import Logits
from tests.distill import analysis_ranks
from tests.distill.kit import Bench, batch
from tests.launch import run_ranks

pytestmark = [pytest.mark.usefixtures("alone"), pytest.mark.timeout(300)]
B, S, V = 2, 5, 11
PNG = b"\x89PNG"


def normal(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def kl(s: Tensor, t: Tensor, temperature: float) -> float:
    log_q, p = F.log_softmax(s / temperature, -1), F.softmax(t / temperature, -1)
    return float(F.kl_div(log_q, p, reduction="none").sum(-1).mean()) * temperature**2


def relation(x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2) / math.sqrt(x.shape[-1])


def test_layers_are_compared_with_the_ends_of_segments():
    found = pairs(ModelShape(2, 8, 2), ModelShape(5, 12, 2))
    assert found["hidden.1"] == (("hidden", 0), ("hidden", 0))
    assert found["hidden.2"] == (("hidden", 1), ("hidden", 3))
    assert found["query.1"] == (("query", 0), ("query", 2))
    assert found["scores.2"] == (("scores", 1), ("scores", 4))
    assert found["output"] == (("output", None), ("output", None))
    assert len(found) == 2 * 5 + 2


def taps(hidden: int, heads: int, seed: int) -> dict[Any, Any]:
    """One layer's tensors."""
    per_head = {
        (name, 0): Tap(normal(B, heads, S, hidden // heads, seed=seed + i), HEADS)
        for i, name in enumerate(("query", "key", "value"))
    }
    return {
        ("hidden", 0): Tap(normal(B, S, hidden, seed=seed + 3)),
        ("output", None): Tap(normal(B, S, hidden, seed=seed + 4)),
        ("scores", 0): Tap(normal(B, heads, S, S, seed=seed + 5), HEADS),
        ("logits", None): Logits(
            normal(S, B, hidden, seed=seed + 6), normal(V, hidden, seed=seed + 7), V, False
        ),
        **per_head,
    }


def compare(student: ModelShape, teacher: ModelShape) -> tuple[dict[str, float], Any, Any]:
    mine = taps(student.hidden, student.heads, seed=0)
    theirs = taps(teacher.hidden, teacher.heads, seed=100)
    whole = Batch(*[torch.zeros(B, S, dtype=torch.long)] * 5)
    found = similarities(pairs(student, teacher), mine, theirs, whole, [1.0, 5.0])
    return found, mine, theirs


def test_numbers_against_plain_torch():
    found, s, t = compare(ModelShape(1, 8, 2), ModelShape(1, 8, 2))
    tensors = {
        "hidden.1": [x["hidden", 0].value for x in (s, t)],
        "value.1": [x["value", 0].value.transpose(1, 2).flatten(2) for x in (s, t)],
        "scores.1": [x["scores", 0].value for x in (s, t)],
        "logits": [x["logits", None].all() for x in (s, t)],
    }
    for name, (mine, theirs) in tensors.items():
        assert found[f"{name}/mse"] == pytest.approx(float(F.mse_loss(mine, theirs)))
        assert found[f"{name}/kl_5"] == pytest.approx(kl(mine, theirs, 5.0))
        if name in ("scores.1", "logits"):
            assert f"{name}/self_mse" not in found
            continue
        related = relation(mine), relation(theirs)
        assert found[f"{name}/self_mse"] == pytest.approx(float(F.mse_loss(*related)))
        assert found[f"{name}/self_kl_1"] == pytest.approx(kl(*related, 1.0))


def test_widths_and_heads_may_differ():
    found, _, _ = compare(ModelShape(1, 8, 2), ModelShape(1, 12, 3))
    assert not any(name.startswith("scores") for name in found)
    assert "hidden.1/mse" not in found
    assert {"hidden.1/self_mse", "query.1/self_kl_5", "logits/mse"} <= found.keys()


def test_layouts_change_nothing():
    expected = analysis_ranks.one()
    found = run_ranks("tests.distill.analysis_ranks:two", 2, timeout=200)
    for layout in ("tp2", "tp2_sp"):
        assert found[layout] == pytest.approx(expected, rel=1e-9)


def trainer(folder: Path, logged: list[Any], step: int = 0) -> Any:
    class Logger:
        def log_metrics(self, values: dict[str, float], step: int) -> None:
            logged.append((step, values))

    return SimpleNamespace(
        global_step=step, is_global_zero=True, loggers=[Logger()], log_dir=str(folder)
    )


def module() -> Any:
    bench = Bench("kd")
    cfg = SimpleNamespace(micro_batch_size=2)
    return SimpleNamespace(glm=bench.student, step=bench.step, cfg=cfg)


def test_the_callback_writes_logs_and_leaves_training_alone(tmp_path: Path):
    (callback,) = callbacks_of({"distill": {"analysis": {"every_n_steps": 2}}})
    logged: list[Any] = []
    model = module()
    state = torch.get_rng_state()
    for step in range(3):
        callback.on_train_batch_start(trainer(tmp_path, logged, step), model, batch([0, 1]), step)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.glm.training
    assert all(p.grad is None for p in model.glm.parameters())
    assert [step for step, _ in logged] == [0, 2]
    assert {f"analysis/t0/hidden.1/self_kl_{t}" for t in (1, 5, 10, 15, 20)} <= logged[0][1].keys()
    rows = json.loads((tmp_path / "analysis.json").read_text())
    assert [row["step"] for row in rows] == [0, 2]
    assert (
        logged[1][1]["analysis/t0/output/self_mse"] == rows[1]["teachers"]["t0"]["output/self_mse"]
    )
    callback.on_train_end(trainer(tmp_path, logged), model)
    assert (tmp_path / "analysis_t0.png").read_bytes().startswith(PNG)


def test_a_resumed_run_goes_on_with_its_numbers(tmp_path: Path):
    first, second = (LayerSimilarity(5, [1.0]) for _ in range(2))
    first.measured = [{"step": 5, "teachers": {}}]
    second.load_state_dict(first.state_dict())
    logged: list[Any] = []
    second.on_train_batch_start(trainer(tmp_path, logged, 5), module(), batch([0, 1]), 0)
    assert not logged


def test_what_is_refused_and_what_is_off():
    assert callbacks_of({}) == callbacks_of({"distill": {"terms": {}, "analysis": None}}) == []
    section: dict[str, Any] = {"distill": {"analysis": {}}, "pipeline_model_parallel_size": 2}
    with pytest.raises(ValueError, match="pipeline_model_parallel_size=1"):
        callbacks_of(section)
    for wrong in ({"every_n_steps": 0}, {"temperatures": []}, {"temperatures": [0.0]}):
        with pytest.raises(ValueError, match=r"distill\.analysis"):
            callbacks_of({"distill": {"analysis": wrong}})
    assert layers_read({"analysis": {}}, 3) == {0, 1, 2}
    assert layers_read({}, 3) == set()


def test_its_keys_are_strict():
    assert known_path("model.distill.analysis.temperatures", PretrainSchema) is None
    problem = known_path("model.distill.analysis.every_n_step", PretrainSchema)
    assert problem is not None
    assert "every_n_steps" in problem


def test_a_heat_map_of_what_there_is():
    values = {"hidden.1/mse": 0.5, "hidden.2/mse": 0.0, "output/mse": 2.0, "output/self_kl_1": 0.1}
    assert heat_map(values, "x", [1.0]).startswith(PNG)
