"""The roofline's parts."""

import pytest
import torch

from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.plan.activations import Tokens
from glmkd_nemo.plan.build import BuiltRank
from glmkd_nemo.plan.hardware import Assumed, Gpu
from glmkd_nemo.plan.layout import Layout
from glmkd_nemo.plan.speed import (
    Machine,
    Speed,
    head_flops,
    layer_flops,
    machine_of,
    pipeline_seconds,
    precision_of,
    speed_of,
)

CONFIG = GLMConfig(vocab_size=1000, num_layers=2, hidden_size=512, num_attention_heads=8)


def test_a_layer_has_the_operations_of_the_literature() -> None:
    """24 b s h^2 + 4 b s^2 h in a forward (arXiv 2104.04473, appendix)."""
    b, s, h = 4, 1024, 512
    assert layer_flops(CONFIG, Tokens(b, s, 2)) == 24 * b * s * h**2 + 4 * b * s**2 * h
    assert head_flops(CONFIG, 10) == 2 * 10 * 1024 * h  # the vocabulary is padded


def test_the_teacher_fills_the_students_bubble_and_its_own_remains() -> None:
    assert pipeline_seconds(8, 1, 1.0, 5.0, 2.0) == 64.0
    assert pipeline_seconds(16, 4, 1.0, 5.0, 2.0) == 149.0


def test_without_a_longer_teacher_the_students_own_bubble_remains() -> None:
    assert pipeline_seconds(16, 4, 2.0, 1.0, 3.0) == 16 * 6 + 3 * (2 + 3)
    assert pipeline_seconds(16, 4, 2.0, 0.0, 3.0) == (16 + 3) * 5  # 1F1B: arXiv 2104.04473, 2.2


def test_a_machine_reaches_the_assumed_share_of_its_peaks() -> None:
    gpu = Gpu(80, {"bf16": 1000.0}, 3000, 400, 50)
    machine = machine_of(gpu, "bf16", Assumed(mfu=0.5, bandwidth=0.5))
    assert (machine.operations, machine.memory) == (5e14, 1.5e12)
    with pytest.raises(ValueError, match="precision=32: this GPU has bf16"):
        machine_of(gpu, "32", Assumed())


def test_a_teacher_runs_at_its_own_precision_and_no_faster_than_its_weights_come() -> None:
    teacher = GLMConfig(
        **{"vocab_size": 1000, "num_layers": 8, "hidden_size": 1024, "num_attention_heads": 8},
        params_dtype=torch.float16,
        fp16=True,
    )
    gpu = Gpu(80, {"32": 50.0, "16": 500.0}, 3000, 400, 50, host_gb_s=10)
    full, half = (machine_of(gpu, name, Assumed(bandwidth=0.5)) for name in ("32", "16"))
    assert precision_of(teacher) == "16"

    def forward(of_teachers: dict[str, Machine] | None, moved: int = 0) -> float:
        rank = BuiltRank(0, CONFIG, {"t0": teacher}, [], 0, 0, 0, 0, 0, offloaded={"t0": moved})
        layout = Layout(4, 4, 1, 1, 16, 64)
        section = {"encoder_seq_length": 512}
        return speed_of([rank], section, layout, full, Assumed(), of_teachers).teacher_forward

    assert 0.1 < forward({"t0": half}) / forward(None) < 0.5
    assert forward({"t0": half}, moved=10**9) == pytest.approx(0.2)


def test_answers_and_passes_count_in_tokens_and_operations_alike() -> None:
    def speed(name: str, passes: int) -> Speed:
        rank = BuiltRank(0, CONFIG, {}, [], 0, 0, 0, 0, 0, passes=passes)
        machine = machine_of(Gpu(80, {"32": 50.0}, 3000, 400, 50), "32", Assumed())
        task = {"name": name, "seq_length": 512}
        return speed_of([rank], {"task": task}, Layout(4, 4, 1, 1, 2, 16), machine, Assumed())

    plain, several = speed("rte", 1), speed("record", 2)  # ReCoRD: 10 entities to choose from
    assert plain.tokens == 16 * 512
    assert several.tokens == 20 * plain.tokens
    assert several.flops == pytest.approx(20 * plain.flops)
