"""Teachers ahead of their student: the same values and gradients, bit by bit, within bounds."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch

from glmkd_nemo.distill import run_ahead, side_stream
from glmkd_nemo.distill.ahead_bounds import OFF, Bounds, bounds_from_section, check_unused
from glmkd_nemo.distill.micro_batch import Pass, numbered
from glmkd_nemo.distill.run_ahead import RunAhead
from glmkd_nemo.distill.side_stream import SideStream, tensors_in
from glmkd_nemo.distill.taps import Tap
from glmkd_nemo.engine.waits import LONGEST, Watcher
from tests.distill.ahead_ranks import coming, everything, run
from tests.distill.kit import Bench
from tests.distill.ranks import AHEAD

pytestmark = [pytest.mark.timeout(500), pytest.mark.usefixtures("alone")]


@pytest.mark.parametrize("case", [f"{name}-{key}" for name, keys in AHEAD.items() for key in keys])
def test_filled_waiting_times_change_nothing(on_two_ranks: dict[str, list[str]], case: str):
    assert on_two_ranks[f"ahead_{case}"] == []


def test_several_micro_batches_ahead_change_nothing():
    checks = everything({"several_mean": ["unforeseen"]})
    assert checks == {key: [] for key in checks}


def test_a_step_ends_with_the_next_ones_taps_in_the_queue():
    bench = Bench("kd", ahead=Bounds(3, True))
    ahead, passes = bench.step.ahead, [coming(bench, 0, 0), coming(bench, 1, 1)]
    bench.step.start(passes[0].context, 4)
    ahead.look_ahead(bench.student, passes)
    assert [ahead.peak, waiting(ahead)] == [0, 8]
    for fields in passes[0].micro_batches:
        bench.step(iter([fields]), bench.student)
    assert [ahead.peak, complete(ahead), waiting(ahead)] == [3, 3, 4]
    ahead.drop()
    assert [complete(ahead), waiting(ahead)] == [0, 0]


def complete(ahead: RunAhead) -> int:
    return sum(len(job.taps) == len(ahead._lanes) for job in ahead._jobs)


def waiting(ahead: RunAhead) -> int:
    return len(ahead._jobs)


def test_taps_are_freed_when_the_student_has_used_them():
    bench = Bench("kd", ahead=Bounds(2, True))
    now = coming(bench, 0, 0)
    bench.step.start(now.context, 4)
    bench.step.ahead.look_ahead(bench.student, [now])
    micro, taps = bench.step.ahead.take(
        now.micro_batches[0], numbered(now.context, 0, 4), bench.student
    )
    hidden = weakref.ref(next(x for x in tensors_in(taps) if x.dim() == 3))
    assert complete(bench.step.ahead) == 2
    del micro, taps
    gc.collect()
    assert hidden() is None


def test_without_a_bound_nothing_is_foreseen():
    _, bench = run("kd", OFF)
    assert [bench.step.ahead.peak, waiting(bench.step.ahead)] == [1, 0]
    assert bench.step.ahead.communicator is None


class Filling:
    """A queue of five micro-batches whose waiting times are filled, on one rank."""

    def __init__(self, bound: int) -> None:
        self.bench = Bench("kd", ahead=Bounds(bound))
        self.ahead = self.bench.step.ahead
        self.ahead.fills = True
        now = coming(self.bench, 0, 0)
        self.bench.step.start(now.context, 4)
        self.ahead.look_ahead(self.bench.student, [now])

    def fill(self, message: Future[None]) -> None:
        threading.Timer(0.5, lambda: (message.set_result(None), self.ahead._bell.set())).start()
        self.ahead.fill([message])


def test_a_wait_is_filled_up_to_the_bound():
    filling = Filling(2)
    message: Future[None] = Future()
    filling.fill(message)
    assert message.done()
    assert [filling.ahead.filled, filling.ahead.peak] == [2, 2]


def test_a_message_that_is_here_is_not_waited_for():
    filling = Filling(2)
    message: Future[None] = Future()
    message.set_result(None)
    filling.ahead.fill([message])
    filling.ahead.fill([])
    assert filling.ahead.filled == 0


def test_tensor_parallel_ranks_do_as_the_first(monkeypatch: pytest.MonkeyPatch):
    filling, orders, asked = Filling(3), [True, False], []
    state = run_ahead.parallel_state
    monkeypatch.setattr(state, "get_tensor_model_parallel_rank", lambda: 1)
    monkeypatch.setattr(state, "get_tensor_model_parallel_world_size", lambda: 2)
    monkeypatch.setattr(filling.ahead, "_run", lambda: None)

    def broadcast(said: torch.Tensor, first: int, group: Any) -> None:
        asked.append(int(said))
        said.fill_(orders[len(asked) - 1])

    monkeypatch.setattr(run_ahead.dist, "broadcast", broadcast)
    message: Future[None] = Future()
    message.set_result(None)  # on this rank: the first one is to say
    filling.ahead.fill([message])
    assert [asked, filling.ahead.filled] == [[0, 0], 1]


@pytest.mark.parametrize("patient", [False, True])
def test_a_lost_message_is_an_error_where_it_is_wanted(patient: bool):
    limits: list[Any] = []

    class Lost:
        def wait(self, *limit: Any) -> None:
            limits.append(limit)
            raise RuntimeError("connection closed by peer")

    bell = threading.Event()
    future = Watcher(bell, patient).watch(Lost())
    assert bell.wait(10)
    assert limits == [(LONGEST,) if patient else ()]
    with pytest.raises(RuntimeError, match="closed by peer"):
        future.result()


class Stream:
    """Writes down what a CUDA stream would be asked."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said

    def record_event(self) -> str:
        self.said.append(f"record on {self.name}")
        return f"event of {self.name}"

    def wait_event(self, event: str) -> None:
        self.said.append(f"{self.name} waits for {event}")


def test_a_side_stream_waits_for_batches_and_the_main_one_for_taps(
    monkeypatch: pytest.MonkeyPatch,
):
    said: list[str] = []
    main, side = Stream("main", said), Stream("side", said)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(said.append("on side")))
    bench = Bench("kd")
    ahead = RunAhead(
        bench.step.config, bench.objective, bench.step.routes, bench.step.ahead._lanes, Bounds(1)
    )
    assert ahead._side is None  # no CUDA here
    ahead._side = SideStream()
    now = coming(bench, 0, 0)
    bench.step.start(now.context, 4)
    ahead.look_ahead(bench.student, [now._replace(micro_batches=now.micro_batches[:2])])
    ahead.take(now.micro_batches[0], numbered(now.context, 0, 2), bench.student)
    forward = ["on side", "side waits for event of main", "record on side"]
    assert said == ["record on main", *forward, "main waits for event of side", *forward]


def test_all_tensors_of_taps_are_found():
    a, b, c = (torch.zeros(1) for _ in range(3))
    edits = {("hidden", 0): partial(torch.add, other=(c,))}
    found = tensors_in([{"t0": {("hidden", 0): Tap(a)}}, (b, b, None, "x"), edits])
    assert {id(x) for x in found} == {id(x) for x in (a, b, c)}
    bench = Bench("kd")
    now = coming(bench, 0, 0)
    bench.step.start(now.context, 4)
    _, taps = bench.step.ahead.take(
        now.micro_batches[0], numbered(now.context, 0, 4), bench.student
    )
    shapes = {tuple(x.shape) for x in side_stream.tensors_in(taps)}
    assert (16, 2, 32) in shapes  # the teacher's final hidden states, inside a handle


def stages(bench: Bench, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> Bench:
    monkeypatch.setattr(bench.step.config, "pipeline_model_parallel_size", count)
    return bench


@pytest.mark.parametrize(
    ("name", "section", "expected"),
    [
        ("kd", None, Bounds(4, True)),
        ("kd", {"micro_batches": None, "next_step": None}, Bounds(4, True)),
        ("kd", {"micro_batches": 3, "next_step": False}, Bounds(3, False)),
        ("kd", {"micro_batches": 0}, OFF),
        ("sid", None, Bounds(4, False)),
        ("theseus", None, OFF),
    ],
)
def test_bounds_left_open(
    name: str,
    section: dict[str, Any] | None,
    expected: Bounds,
    monkeypatch: pytest.MonkeyPatch,
):
    step = stages(Bench(name), monkeypatch).step
    assert bounds_from_section(section, step.config, step.objective, step.teachers) == expected


def test_one_stage_has_no_waiting_time_by_itself():
    step = Bench("kd").step
    assert bounds_from_section(None, step.config, step.objective, step.teachers) == OFF
    with pytest.raises(ValueError, match="without pipeline stages or CUDA"):
        bounds_from_section({"micro_batches": 2}, step.config, step.objective, step.teachers)


@pytest.mark.parametrize(
    ("name", "section", "words"),
    [
        ("kd", {"micro_batches": -1}, "must not be negative"),
        ("kd", {"micro_batches": 0, "next_step": True}, "micro_batches is 0. Set it to null"),
        ("sid", {"next_step": True}, "the term x does next depends on the losses of this step"),
        ("theseus", {"micro_batches": 2}, "layers stand in for the student's"),
        ("theseus", {"next_step": True}, "layers stand in for the student's"),
    ],
)
def test_what_would_not_be_exact_is_refused(
    name: str, section: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
):
    step = stages(Bench(name), monkeypatch).step
    with pytest.raises(ValueError, match=words):
        bounds_from_section(section, step.config, step.objective, step.teachers)


def test_teachers_that_change_are_refused(monkeypatch: pytest.MonkeyPatch):
    step = stages(Bench("kd"), monkeypatch).step
    given = step.config, step.objective
    monkeypatch.setattr(step.teachers["t0"], "trainable", True)
    with pytest.raises(ValueError, match="the teacher t0 learns"):
        bounds_from_section({"micro_batches": 2}, *given, step.teachers)
    assert bounds_from_section(None, *given, step.teachers) == OFF
    with pytest.raises(ValueError, match="there is no teacher"):
        bounds_from_section({"micro_batches": 2}, *given, {})
    with pytest.raises(ValueError, match="next_step=True: there is no teacher"):
        check_unused({"micro_batches": None, "next_step": True})
    check_unused({"micro_batches": 0, "next_step": None})


def test_cuda_needs_to_be_asked(monkeypatch: pytest.MonkeyPatch):
    step = stages(Bench("kd"), monkeypatch).step
    given = step.config, step.objective, step.teachers
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bounds_from_section(None, *given) == OFF
    assert bounds_from_section({"micro_batches": 2}, *given) == Bounds(2, True)
    monkeypatch.setattr(step.config, "sequence_parallel", True)
    with pytest.raises(ValueError, match="one buffer for both models"):
        bounds_from_section({"micro_batches": 2}, *given)


def test_another_batch_than_foreseen_is_not_mixed_up():
    bench = Bench("kd", ahead=Bounds(2, True))
    first, second = coming(bench, 0, 0), coming(bench, 1, 1)
    bench.step.start(first.context, 4)
    bench.step.ahead.look_ahead(bench.student, [first, second])
    for fields in first.micro_batches:
        bench.step(iter([fields]), bench.student)
    other = Pass(second.context, second.micro_batches[::-1], 7)
    bench.step.ahead.look_ahead(bench.student, [other])
    assert [job.owner[1] for job in bench.step.ahead._jobs] == [7] * 4
    assert complete(bench.step.ahead) == 0
