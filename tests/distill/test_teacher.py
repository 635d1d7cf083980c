"""Teachers: what runs of them, at which precision, and layers that come from the host's memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glmkd_nemo.distill.method import Batch, StepContext, batch_of
from glmkd_nemo.distill.offload import CudaMover, LayerBuffers, OffloadedLayers, packed
from glmkd_nemo.distill.taps import TapKey
from glmkd_nemo.distill.teachers import Teacher
from tests.distill.kit import Bench as KitBench
from tests.distill.kit import batch
from tests.distill.steps import TERMS, Bench
from tests.distill.teacher_cases import counted, lower

pytestmark = [pytest.mark.timeout(500), pytest.mark.usefixtures("alone")]
WANTED: list[tuple[set[TapKey], int]] = [  # of a teacher of four layers, how many of them run
    ({("embedding", None)}, 0),
    ({("hidden", 0)}, 1),
    ({("layer_output", 0), ("scores", 1)}, 2),
    ({("hidden_mean", 2), ("value", 0)}, 3),
    ({("output", None)}, 4),
    ({("logits", None), ("query", 0)}, 4),
]


class Device:
    """A device whose copies happen at once, or no sooner than somebody waits for them."""

    def __init__(self, late: bool) -> None:
        self.late, self.copies = late, 0
        self.buffers: list[Tensor] = []

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def buffer(self, size: int) -> Tensor:
        self.buffers.append(torch.full((size,), 255, dtype=torch.uint8))  # numbers that are NaN
        return self.buffers[-1]

    def now(self) -> Any:
        return lambda: None

    def copy(self, source: Tensor, target: Tensor, after: Any) -> Any:
        self.copies += 1
        if self.late:
            return lambda: target.copy_(source)
        target.copy_(source)
        return lambda: None

    def wait(self, point: Any) -> None:
        point()


def values(taps: dict[TapKey, Any]) -> dict[TapKey, Tensor]:
    """Taps as tensors."""
    return {k: t.all() if k[0] == "logits" else t.value for k, t in taps.items()}


@pytest.fixture(scope="module")
def teachers() -> list[Teacher]:
    """Two of other sizes, of four layers and of three."""
    four = KitBench("kd").teachers["t0"]
    three = KitBench("several_mean").teachers["t1"]
    return [four, three]


@pytest.fixture(scope="module")
def samples() -> Batch:
    return batch_of(batch([0, 1, 2]))


@pytest.mark.parametrize(("want", "layers"), WANTED)
def test_a_pass_ends_at_the_last_wanted_tap(
    teachers: list[Teacher], samples: Batch, want: set[TapKey], layers: int
):
    teacher = teachers[0]
    whole, expected = teacher.forward(samples, want, None, None, True)
    with counted(teacher.model) as ran:
        output, found = teacher.forward(samples, want, None)
    assert (whole is None, output) == (False, None)
    assert ran == list(range(layers))
    expected, found = values(expected), values(found)
    assert expected.keys() == found.keys() == want
    assert all(torch.equal(found[key], expected[key]) for key in want)


def test_nothing_of_the_last_layer_runs_after_its_tap(teachers: list[Teacher], samples: Batch):
    layer = teachers[0].model.decoder.layers[1]
    calls: list[str] = []
    for name in ("self_attention", "mlp"):
        part = layer.get_submodule(name)
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    teachers[0].forward(samples, {("hidden", 1)}, None)
    assert calls == []
    teachers[0].forward(samples, {("layer_output", 1)}, None)
    assert calls == ["self_attention", "mlp"]


def test_a_tap_that_is_never_reached_is_still_told(teachers: list[Teacher], samples: Batch):
    with pytest.raises(KeyError, match=r"never tapped.*hidden.*9"):
        teachers[0].forward(samples, {("hidden", 1), ("hidden", 9)}, None)


@pytest.mark.parametrize("late", [False, True])
def test_offloaded_layers_come_one_after_the_other_and_give_the_same(
    teachers: list[Teacher], samples: Batch, late: bool
):
    device = Device(late)
    buffers = LayerBuffers(device)
    fresh = [KitBench("kd").teachers["t0"], KitBench("several_mean").teachers["t1"]]
    moved = []
    for teacher in fresh:
        offloaded = OffloadedLayers(teacher.model.decoder.layers, buffers)
        moved.append(Teacher(teacher.model, offloaded=offloaded))
    layers = [layer for teacher in fresh for layer in teacher.model.decoder.layers]
    for want, count in WANTED[1:5]:
        for resident, teacher in zip(teachers, moved, strict=True):
            own = {key for key in want if (key[1] or 0) < resident.config.num_layers}
            device.copies = 0
            expected = values(resident.forward(samples, own, None)[1])
            found = values(teacher.forward(samples, own, None)[1])
            assert all(torch.equal(found[key], expected[key]) for key in own)
            assert device.copies == min(count, resident.config.num_layers)  # none that is not used
    largest = max(packed(layer)[1] for layer in layers)
    assert [len(buffer) for buffer in device.buffers] == [largest] * 2  # of all teachers
    assert all(p.isfinite().all() for layer in layers for p in layer.parameters())


def test_offloaded_layers_run_in_their_pass_only(samples: Batch):
    model = KitBench("kd").teachers["t0"].model
    OffloadedLayers(model.decoder.layers, LayerBuffers(Device(late=False)))
    with pytest.raises(AssertionError, match="layer 0 runs outside of its pass"):
        Teacher(model).forward(samples, {("layer_output", 0)}, None)


def test_shared_layers_are_not_offloaded():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    with pytest.raises(ValueError, match="share one set of weights"):
        OffloadedLayers([first, second], LayerBuffers(Device(late=False)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_weights_arrive_before_they_are_used():
    layers = [nn.Linear(1024, 1024, bias=False) for _ in range(6)]
    x = torch.randn(64, 1024, device="cuda")
    expected = x
    for layer in layers:
        expected = expected @ layer.weight.detach().cuda().T
    offloaded = OffloadedLayers(layers, LayerBuffers(CudaMover()))
    for _ in range(50):
        y = x
        with torch.no_grad(), offloaded.streamed(len(layers)):
            for layer in layers:
                y = layer(y)
        assert torch.equal(y, expected)
    assert all(not p.is_cuda and p.is_pinned() for layer in layers for p in layer.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_there_is_nothing_to_move_to():
    with pytest.raises(ValueError, match="needs a CUDA device"):
        CudaMover()


def test_a_bf16_teacher_is_near_and_gradients_keep_the_student_s_precision():
    terms = {name: term for name, term in TERMS.items() if "top_n" not in term}  # a choice may tip
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        bench = Bench(terms, sp=False, recompute=None)
        lower(bench.teacher, dtype)
        found.append((bench.run([[0, 1], [2, 3]], StepContext()), bench.gradients()))
    (exact, exact_gradients), (near, gradients) = found
    assert exact.keys() == near.keys()
    for name, value in exact.items():
        assert near[name] == pytest.approx(value, rel=0.02), name  # masked scores included
        assert near[name] != value or name == "hard/hard"
    for name, gradient in exact_gradients.items():
        assert gradients[name].dtype == gradient.dtype != torch.bfloat16
        assert (gradients[name] - gradient).norm() < 0.05 * gradient.norm(), name


@pytest.mark.parametrize("check", ["pp2_changing_needs", "pp2_bf16_teacher"])
def test_stages_after_the_last_needed_one_do_not_run(
    on_two_ranks: dict[str, list[str]], check: str
):
    assert on_two_ranks[check] == []
