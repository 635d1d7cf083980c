"""fp8 recipes of student and teachers, and fp16's dynamic loss scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.core.distributed import finalize_model_grads
from omegaconf import OmegaConf

from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.optimizer import McoreOptimizer, build_optimizer
from glmkd_nemo.engine.precision import check_precision, fp8_settings, teacher_precision
from glmkd_nemo.models.teacher import refuse_standing_in

DEFAULTS = {"fp8_margin": 0, "fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"}
TENSORWISE = {"fp8": True, "fp8_recipe": "tensorwise"}
OPTIM: dict[str, Any] = {
    "name": "adam",
    "lr": 1e-3,
    "initial_loss_scale": 64.0,
    "loss_scale_window": 2,
    "hysteresis": 2,
    "min_loss_scale": 16.0,
}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, {}),
        ({"fp8": True}, {"fp8": "hybrid", "fp8_recipe": "delayed", **DEFAULTS}),
        ({"fp8": True, "fp8_e4m3": True, "fp8_margin": 2}, {"fp8": "e4m3", "fp8_margin": 2}),
        ({**TENSORWISE, "fp8_hybrid": True}, {"fp8": "hybrid", "fp8_recipe": "tensorwise"}),
    ],
)
def test_recipes_in_nemo_s_words(section: dict[str, Any], expected: dict[str, Any]):
    found = fp8_settings(section)
    assert {key: found[key] for key in expected} == expected
    assert bool(found) == bool(expected)


@pytest.mark.parametrize(
    ("section", "frozen", "words"),
    [
        ({"fp8_e4m3": True}, False, "here.fp8_e4m3=true has no effect without here.fp8=true"),
        ({"fp8": True, "fp8_e4m3": True, "fp8_hybrid": True}, False, "choose one of"),
        ({"fp8": True, "fp8_recipe": "tensor"}, False, "unknown: choose one of delayed"),
        ({"fp8": True, "fp8_recipe": "delayed"}, True, "frozen .* choose tensorwise"),
        ({**TENSORWISE, "fp8_margin": 1}, False, "fp8_margin has no effect with .*tensorwise"),
        ({"fp8": True, "activations_checkpoint_granularity": "full"}, False, "selective or null"),
    ],
)
def test_what_would_have_no_effect_is_refused(section: dict[str, Any], frozen: bool, words: str):
    with pytest.raises(ValueError, match=words):
        fp8_settings(section, "here", frozen)


def test_teachers_are_checked_each_for_itself():
    frozen = {"teachers": {"big": {"fp8": True, "fp8_recipe": "delayed"}}}
    with pytest.raises(ValueError, match=r"model\.teachers\.big\.fp8_recipe=delayed"):
        check_precision(frozen)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"model\.teachers\.big\.fp8=true needs a CUDA device"):
            check_precision({"teachers": {"big": TENSORWISE}})


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"precision": "fp17"}, r"model\.teachers\.big\.precision=fp17 is unknown"),
        ({"precision": 32, "trainable": True}, "trained with its student, at bf16"),
        ({"offload": True, "trainable": True}, "only a frozen teacher's weights"),
        ({"offload": True, **TENSORWISE}, r"needs a CUDA device|keeps fp8 copies"),
    ],
)
def test_settings_of_teachers_that_cannot_be(section: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        check_precision({"precision": "bf16", "teachers": {"big": section}})


def test_a_teacher_has_its_own_precision_or_its_student_s():
    assert teacher_precision({}, "bf16", "here") == "bf16"
    assert teacher_precision({"precision": 16}, 32, "here") == "16"
    for section in (
        {"precision": 32},
        {"precision": "bf16", "trainable": True},
        {"offload": False},
    ):
        check_precision({"precision": "bf16", "teachers": {"big": section}})
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="in the host's memory anyway"):
            check_precision({"teachers": {"big": {"offload": True}}})


def test_layers_that_stand_in_have_the_student_s_precision():
    refuse_standing_in("big", {"precision": "bf16-mixed"}, "bf16")
    with pytest.raises(ValueError, match=r"model\.teachers\.big\.precision=32.*in the place of"):
        refuse_standing_in("big", {"precision": 32}, "bf16")
    with pytest.raises(ValueError, match=r"model\.teachers\.big\.offload=true.*in the place of"):
        refuse_standing_in("big", {"offload": True}, "bf16")


def test_a_teacher_s_fp8_is_the_run_s_and_not_its_archive_s(monkeypatch: pytest.MonkeyPatch):
    from glmkd_nemo.models import teacher

    saved = {"num_layers": 2, "fp8": True, "fp8_e4m3": True, "fp8_recipe": "delayed"}
    monkeypatch.setattr(teacher, "read_nemo_config", lambda path: OmegaConf.create(saved))
    plain = OmegaConf.create({"restore_from_path": "x.nemo"})
    found = teacher.teacher_cfg("t0", plain)
    assert (found.fp8, found.fp8_e4m3, found.num_layers) == (False, False, 2)
    wanted = OmegaConf.merge(plain, {"fp8": True, "fp8_margin": 0})
    found = teacher.teacher_cfg("t0", wanted)
    assert (found.fp8, found.fp8_recipe) == (True, "tensorwise")


class HalfRun:
    """Steps of an fp16 model whose gradients overflow at will."""

    def __init__(self) -> None:
        from tests.models.ranks import build

        model = build({"precision": 16, "num_layers": 1}).half().train()
        chunk = schedule.in_precision(model)
        (self.ddp,) = schedule.wrap_in_ddp([chunk], model.config, "adam")
        self.optimizer: McoreOptimizer = build_optimizer(OPTIM, "16", [self.ddp])
        self.parameter = next(model.parameters())

    def step(self, overflows: bool) -> bool:
        """One step; whether the weights changed."""
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        for parameter in self.ddp.parameters():
            parameter.main_grad.fill_(float("inf") if overflows else 1.0)
        before = self.parameter.detach().clone()
        finalize_model_grads([self.ddp])
        self.optimizer.step()
        return not torch.equal(before, self.parameter)


@pytest.mark.usefixtures("alone")
def test_an_overflow_skips_a_step_and_the_second_one_halves_the_scale():
    run = HalfRun()
    assert run.optimizer.loss_scale() == 64
    assert run.step(overflows=False)
    assert not run.step(overflows=True)
    assert (run.optimizer.loss_scale(), run.optimizer.skipped) == (64, 1)
    for expected in (32, 16, 16):  # and no lower than the minimum
        assert not run.step(overflows=True)
        assert run.optimizer.loss_scale() == expected
    assert run.optimizer.skipped == 4
    assert [run.step(overflows=False) for _ in range(2)] == [True, True]
    assert run.optimizer.loss_scale() == 32  # after a window of good steps
    assert {group["lr"] for group in run.optimizer.param_groups} == {1e-3}
