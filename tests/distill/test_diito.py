"""DIITO: what is interchanged, with which gradients, its parts, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmkd_nemo.distill.interchange import WAYS, Interchange, interchange
from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods.diito import DIITO, DIITOConfig
from glmkd_nemo.distill.taps import Tap
from glmkd_nemo.replay.flags import Setting
from glmkd_nemo.replay.flags.methods.diito import TRANSLATION

STUDENT, TEACHER = ModelShape(3, 8, 2), ModelShape(7, 8, 2)
OUTPUT = ("output", None)
LENGTHS = [12, 7, 9, 3]
pytestmark = pytest.mark.usefixtures("alone")


def build(student: ModelShape = STUDENT, teacher: ModelShape = TEACHER, **options: Any) -> DIITO:
    return DIITO(DIITOConfig(**options), student, teacher)


def real(lengths: list[int] = LENGTHS, size: int = 12) -> torch.Tensor:
    return torch.arange(size) < torch.tensor(lengths)[:, None]


def batch(lengths: list[int] = LENGTHS, size: int = 12) -> Batch:
    """Position ids count up from 0 and are 0 again in padding."""
    positions = torch.arange(size) * real(lengths, size)
    zeros = torch.zeros(len(lengths), size)
    return Batch(zeros.long(), torch.stack([positions] * 2, 1), zeros, zeros, zeros)


def draw(way: str, seed: int = 0, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return Interchange(way=way, **options).draw_positions(real(), random.Random(seed))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("most", [None, 1])
def test_as_many_positions_in_both_samples(way: str, most: int | None):
    shorter = [7, 7, 3, 3]  # of a sample and the next one, the first after the last
    some = [min(int(n * 0.5), most or 99) for n in shorter]
    for seed in range(50):
        mask, dual = draw(way, seed, share=0.5, max_tokens=most)
        expected = shorter if way == "masked" else some
        assert mask.sum(1).tolist() == dual.sum(1).tolist() == expected


def test_consecutive_positions_are_runs_of_real_ones():
    starts = set()
    for seed in range(200):
        mask, dual = draw("consecutive", seed, share=0.5)
        assert not (mask & ~real()).any()
        assert not (dual & ~real().roll(-1, 0)).any()
        for row in (*mask, *dual):
            at = row.nonzero()[:, 0].tolist()
            assert at == list(range(at[0], at[0] + len(at)))
        starts.add(int(mask[0].nonzero()[0]))
    assert starts == set(range(12 - 3 + 1))


def test_masked_ones_are_real_in_the_sample_itself():
    own = torch.zeros_like(real())
    other = torch.zeros_like(own)
    for seed in range(200):
        mask, dual = draw("masked", seed)
        own, other = own | mask, other | dual
    assert torch.equal(own, real())
    assert other.all()
    drawn = torch.zeros_like(own)
    for seed in range(200):
        drawn |= draw("random", seed, share=0.5)[0]
    assert drawn.all()


def test_the_edit_takes_rows_of_the_next_sample_in_view_0():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 12, 5, generator=g, dtype=torch.float64, requires_grad=True)
    mask, dual = draw("random")
    before = x.detach().clone()
    found = interchange(x, (mask, dual))
    expected = before.clone()
    for i in range(4):
        into, out_of = mask[i].nonzero()[:, 0], dual[i].nonzero()[:, 0]
        expected[4 + i, into] = before[(i + 1) % 4, out_of]
    assert torch.equal(found, expected)
    assert torch.equal(x, before), "out of place"
    weight = torch.randn(found.shape, generator=g, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)
    reference = weight.clone()
    reference[4:][mask] = 0.0
    for i in range(4):  # to where it came from, on top of its own
        reference[(i + 1) % 4, dual[i]] += weight[4 + i, mask[i]]
    torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize(
    ("alignment", "depths", "drawn", "student", "teacher"),
    [
        ("full", (2, 4), 1, [1], [1, 2]),
        ("full", (2, 4), 2, [None], [3, None]),
        ("full", (3, 6), 2, [2], [3, 4]),
        ("full", (3, 7), 3, [None], [5, 6, None]),
        ("full", (3, 4), 2, [2], [2]),
        ("middle", (3, 4), 1, [2], [3]),
        ("late", (2, 4), 1, [1, None], [3, None]),
    ],
)
def test_aligned_layers(
    alignment: str, depths: tuple[int, int], drawn: int, student: Any, teacher: Any
):
    found = Interchange(alignment=alignment).keys(*depths, drawn)
    expected = [[("hidden", i) if i is not None else OUTPUT for i in x] for x in (student, teacher)]
    assert list(found) == expected


@pytest.mark.parametrize("alignment", ["full", "middle", "late"])
def test_possible_parts_name_all_that_may_be_interchanged(alignment: str):
    method = build(alignment=alignment)
    possible = method.possible_parts()
    edited: tuple[set[Any], set[Any]] = (set(), set())
    for step in range(50):
        edits = method.edits(StepContext(step=step), batch())
        edited[0].update(edits[0])
        edited[1].update(edits[1])
    assert edited[0] <= {key for p in possible for key in p.student}
    assert edited[1] <= {key for p in possible for key in p.teacher}


def test_edits_draw_the_layer_by_step_and_positions_by_micro_batch():
    method, other = build(), build()
    x = torch.randn(8, 12, 5)
    layers, results = [], []
    for step in range(60):
        edits = [method.edits(StepContext(step=step, micro_batch=k), batch()) for k in (0, 1)]
        (key,) = edits[0][0]
        assert edits[0][0].keys() == edits[1][0].keys()
        assert edits[0][1].keys() == edits[1][1].keys()
        layers.append(key)
        first, second = (e[0][key](x) for e in edits)
        results.append(torch.equal(first, second))
        teacher = next(iter(edits[0][1].values()))
        assert torch.equal(teacher(x), first), "the same positions in student and teacher"
        again = other.edits(StepContext(step=step), batch())[0]
        assert torch.equal(again[key](x), first)
    assert set(layers) == {("hidden", 1), ("hidden", 2), OUTPUT}
    assert not all(results)


def test_parts():
    found = {p.name: p for p in build(causal_cos=0.5).parts(StepContext())}
    assert {n: (p.view, p.weight, p.prediction) for n, p in found.items()} == {
        "cos": (0, 0.25, False),
        "causal_ce": (1, 0.25, True),
        "causal_cos": (1, 0.5, False),
    }
    assert found["causal_ce"].student == (("logits", None),)
    assert build(of="classes").parts(StepContext())[1].student == (("classes", None),)
    assert [p.name for p in build(cos=0).parts(StepContext())] == ["causal_ce"]
    assert DIITO.views == 2


def test_padded_positions_have_cosine_distance_1_and_no_gradient():
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randn(4, 12, 8, generator=g, dtype=torch.float64) for _ in range(2))
    s.requires_grad_()
    part = build().parts(StepContext())[0]
    found = part.loss({OUTPUT: Tap(s)}, {OUTPUT: Tap(t)}, batch())
    mask = real()[..., None]
    flat = ((x * mask).view(-1, 8) for x in (s, t))
    rows = F.cosine_embedding_loss(*flat, torch.ones(48), reduction="none").view(4, 12)
    assert torch.equal(rows[~real()], torch.ones_like(rows[~real()]))
    torch.testing.assert_close(found, rows.mean(1))
    (gradient,) = torch.autograd.grad(found.sum(), s)
    assert gradient.isfinite().all()
    assert not gradient[~real()].any()
    assert gradient[real()].any(-1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alignment": "early"}, "alignment 'early' is unknown: full, middle, late"),
        ({"way": "all"}, "way 'all' is unknown: consecutive, masked, random"),
        ({"share": 1.5}, "share 1.5 must be between 0 and 1"),
        ({"mask": "pad"}, "mask 'pad' is unknown"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_models_that_do_not_fit():
    with pytest.raises(ValueError, match="hidden sizes differ"):
        build(teacher=ModelShape(7, 12, 2))
    assert build(teacher=ModelShape(7, 12, 2), cos=0.0).parts(StepContext())
    with pytest.raises(ValueError, match="teacher has 2 layers, the student 3"):
        build(teacher=ModelShape(2, 8, 2))
    with pytest.raises(ValueError, match="alignment=full or late"):
        build(ModelShape(2, 8, 2), alignment="middle")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"forward_repeat_num": "1", "distill_soft_rate": "0.5"}, "has no effect.*diito_alpha_ce"),
        ({}, "needs --forward_repeat_num=1"),
    ],
)
def test_options_of_the_reference_that_have_no_effect(flags: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        TRANSLATION.terms(flags, Setting("pt", 2, (4,)), {})
