"""DeepSpeed as the engine: what it refuses, the same losses as Megatron-Core's, its checkpoints."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.engine.deepspeed_config import engine_config, uses_deepspeed
from tests.distill.single import one_rank
from tests.launch import run_ranks

HERE = "tests.engine.deepspeed_ranks"
OPTIM = {"lr": 1e-3, "clip_grad": 0.5}
MODEL = {"micro_batch_size": 2, "global_batch_size": 16, "optim": OPTIM}
STAGES = ["zero0", "zero1", "zero2", "zero3"]
REFUSALS = {
    "other_stage": "was written by DeepSpeed with {'zero_stage': 3",
    "other_engine": "was written by DeepSpeed: go on with engine=deepspeed",
    "of_megatron": "was written by the Megatron engine",
}
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="DeepSpeed is not installed (pip install glmkd_nemo[deepspeed])",
)


def cfg(model: dict[str, Any] | None = None, **engine: Any) -> dict[str, Any]:
    """A configuration with DeepSpeed as its engine."""
    return {"engine": {"name": "deepspeed", **engine}, "model": {**MODEL, **(model or {})}}


def test_engines_are_told_apart():
    assert uses_deepspeed(cfg(zero_stage=3, offload_parameters=True))
    assert not uses_deepspeed({"model": MODEL})
    assert not uses_deepspeed({"engine": {"name": "megatron", "zero_stage": None}, "model": MODEL})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"engine": {"name": "deepsped"}, "model": MODEL}, "did you mean deepspeed"),
        ({"engine": {"name": "megatron", "zero_stage": 2}, "model": MODEL}, "engine.zero_stage is"),
        (cfg(zero_stage=4), "the stages 0, 1, 2 and 3"),
        (cfg({"pipeline_model_parallel_size": 2}), "pipeline_model_parallel_size=1"),
        (cfg(zero_stage=0, offload_optimizer=True), "set engine.zero_stage to 1"),
        (cfg(zero_stage=2, offload_parameters=True), "needs engine.zero_stage=3"),
        (cfg({"distill": {"analysis": {"every_n_steps": 1}}}, zero_stage=3), "zero_stage=2"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        uses_deepspeed(given)


def test_its_configuration_follows_from_ours():
    section = {"zero_stage": 2, "offload_optimizer": True}
    found = engine_config(section, MODEL, data_parallel=4)
    assert found["gradient_accumulation_steps"] == 2
    assert found["gradient_clipping"] == 0.5
    assert found["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert not {"fp16", "bf16"} & found.keys()
    scaling = {"initial_loss_scale": 4096, "loss_scale_window": 50, "min_loss_scale": 2}
    half = engine_config(section, {**MODEL, "precision": 16, "optim": {**OPTIM, **scaling}}, 1)
    assert half["fp16"]["initial_scale_power"] == 12
    assert (half["fp16"]["loss_scale_window"], half["fp16"]["min_loss_scale"]) == (50, 2)
    assert half["data_types"]["grad_accum_dtype"] == "fp32"


def test_further_keys_are_passed_on_and_ours_are_not_overridden():
    given = {"zero_optimization": {"overlap_comm": False}, "steps_per_print": 5}
    found = engine_config({"zero_stage": 1, "config": given}, MODEL, 1)
    assert found["zero_optimization"] == {"stage": 1, "overlap_comm": False}
    assert found["steps_per_print"] == 5
    for wrong in ({"gradient_clipping": 1}, {"zero_optimization": {"stage": 3}}):
        with pytest.raises(ValueError, match="is decided by"):
            engine_config({"config": wrong}, MODEL, 1)


@needs_deepspeed
def test_one_process_gives_the_same_losses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "0")  # DeepSpeed would leave it set
    from tests.engine.deepspeed_ranks import side_by_side

    with one_rank_without_groups():
        found = side_by_side(["dp"], ["megatron", "zero2"], steps=3)
    compare(found)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_steps_side_by_side():
    args = {"layouts": ["dp", "tp2"], "engines": ["megatron", *STAGES], "steps": 20}
    compare(run_ranks(f"{HERE}:side_by_side", 2, args, timeout=400))


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sequence_parallelism_and_offloading():
    engines = ["megatron", "zero1", "zero3", "offload", "offload3"]
    args = {"layouts": ["tp2_sp"], "engines": engines, "steps": 4}
    compare(run_ranks(f"{HERE}:side_by_side", 2, args, timeout=400))


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_kinds_of_parallelism():
    args = {"layouts": ["tp2"], "engines": ["megatron", "zero2", "zero3"], "steps": 4}
    compare(run_ranks(f"{HERE}:side_by_side", 4, args, timeout=400))


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_checkpoints_resume_and_are_read(tmp_path: Path):
    args = {"root": str(tmp_path), "layouts": ["dp", "tp2"], "engines": STAGES}
    found = run_ranks(f"{HERE}:saved_and_loaded", 2, args, timeout=400)
    for case, values in found.items():
        assert values["resumed"] == pytest.approx(values["on"], rel=1e-6), case
        assert values["equal"], case


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whole_runs(tmp_path: Path):
    found = run_ranks("tests.engine.deepspeed_runs:runs", 2, {"root": str(tmp_path)}, timeout=400)
    for name in ("dp2 zero3", "tp2 zero1"):
        for step, expected in found[f"{name.split()[0]} megatron"].items():
            assert found[name][step] == pytest.approx(expected, rel=1e-5), (name, step)
        resumed = found[f"{name} resumed"]
        assert sorted(resumed) == [3, 4, 5]
        for step, parts in resumed.items():
            assert parts == pytest.approx(found[name][step], rel=1e-6), (name, step)
        first, trained = found[name][0], found[f"{name} archive"][0]
        assert trained["hard/hard"] < first["hard/hard"]
    for case, words in REFUSALS.items():
        assert words in found["refusals"][case]


def one_rank_without_groups() -> Any:
    """A world of one process; the function under test sets up the model-parallel groups."""
    from megatron.core import parallel_state

    context = one_rank()

    class Without:
        def __enter__(self) -> None:
            context.__enter__()
            parallel_state.destroy_model_parallel()

        def __exit__(self, *error: Any) -> None:
            context.__exit__(*error)

    return Without()


def compare(found: dict[str, Any]) -> None:
    """Each engine against Megatron-Core in the same layout."""
    for case, values in found.items():
        expected = found[f"{case.split()[0]} megatron"]
        assert values["losses"] == pytest.approx(expected["losses"], rel=1e-5), case
        assert values["held_out"] == pytest.approx(expected["held_out"], rel=1e-5), case
        assert values["decayed"] == expected["decayed"] == [0.0, 0.1], case
        if values["norm"] is not None:
            assert values["norm"] == pytest.approx(expected["norm"], rel=1e-4), case
        assert values["losses"][-1] < values["losses"][0], case
