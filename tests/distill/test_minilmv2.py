"""MiniLMv2 against its formula written plainly, and the relation heads it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill import attention_losses
from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.taps import HEADS, Tap, TapKey
from glmkd_nemo.replay.flags import Setting, translation_of
from tests.distill.test_minilm import plain_kl

STUDENT, TEACHER = ModelShape(2, 8, 2), ModelShape(5, 12, 3)
BATCH = Batch(*[torch.zeros(3, 5)] * 5)
pytestmark = pytest.mark.usefixtures("alone")


def method(**options: Any):
    cls = method_class("minilmv2")
    return cls(cls.Config(**{"relation_heads": 4, **options}), STUDENT, TEACHER)


def plain_relation(mixed: Tensor, heads: int) -> Tensor:
    """``[b, s, h] -> [b, heads, s, s]``, head by head."""
    found = []
    for piece in mixed.chunk(heads, -1):
        found.append(torch.einsum("bqd,bkd->bqk", piece, piece) / piece.shape[-1] ** 0.5)
    return torch.stack(found, 1)


def split(mixed: Tensor, heads: int) -> Tap:
    """As attention has it: ``[b, n, s, d]``."""
    b, s, _ = mixed.shape
    return Tap(mixed.view(b, s, heads, -1).transpose(1, 2), HEADS)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_relation_heads_cut_the_whole_width(heads: int):
    """Of 2 and 3 attention heads; the relations are the same whatever those were."""
    g = torch.Generator().manual_seed(0)
    student: dict[TapKey, Any] = {}
    teacher: dict[TapKey, Any] = {}
    expected = {}
    for name, tap in (("queries", "query"), ("keys", "key"), ("values", "value")):
        s = torch.randn(3, 5, 8, generator=g, dtype=torch.float64)
        t = torch.randn(3, 5, 12, generator=g, dtype=torch.float64)
        student[tap, 1], teacher[tap, 4] = split(s, 2), split(t, 3)
        expected[name] = plain_kl(plain_relation(s, heads), plain_relation(t, heads))
    parts = method(relation_heads=heads).parts(StepContext())
    assert [p.name for p in parts] == list(expected)
    assert all(p.weight == 1.0 for p in parts)
    for part in parts:
        torch.testing.assert_close(part.loss(student, teacher, BATCH), expected[part.name])


@pytest.mark.parametrize(("given", "layer"), [(1, 0), (5, 4), (-1, 4), (-2, 3), (-5, 0)])
def test_teacher_layer_counts_from_one_or_from_the_end(given: int, layer: int):
    parts = method(teacher_layer=given).parts(StepContext())
    assert [p.teacher for p in parts] == [((t, layer),) for t in ("query", "key", "value")]
    assert [p.student for p in parts] == [((t, 1),) for t in ("query", "key", "value")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relation_heads": 3}, r"relation_heads=3 must divide .* 8 and 12: 1, 2, 4 do"),
        ({"relation_heads": 0}, "relation_heads=0 must divide"),
        ({"relation_heads": 8}, "relation_heads=8 must divide"),
        ({"teacher_layer": 0}, r"teacher_layer 0 of a teacher with 5 layers: give 1 .* to 5"),
        ({"teacher_layer": 6}, "teacher_layer 6 of a teacher"),
        ({"teacher_layer": -6}, "teacher_layer -6 of a teacher"),
    ],
)
def test_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        method(**options)


def test_a_relation_head_on_two_ranks_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention_losses, "tp_size", lambda: 4)
    with pytest.raises(ValueError, match=r"relation_heads=2 .* 4 tensor-parallel ranks: choose a"):
        method(relation_heads=2)
    assert method(relation_heads=4).parts(StepContext())


def test_translation_of_the_original_options():
    terms = translation_of("minilmv2").terms
    setting = Setting("pt", 6, (12,))
    assert terms({}, setting, {})["minilmv2"] == {
        "method": "minilmv2",
        "relation_heads": 48,
        "teacher_layer": 12,
    }
    hard = {"hard": {"method": "hard"}}
    assert terms({"minilmv2_wo_inter": True}, setting, hard) == hard


def test_translation_gives_each_teacher_its_relation_heads():
    flags = {"minilmv2_relation_heads_mt": "8,16", "minilmv2_teacher_layer": "-1"}
    found = translation_of("minilmv2").terms(flags, Setting("pt", 2, (4, 6)), {})
    assert {
        n: (t["teacher"], t["relation_heads"], t["teacher_layer"]) for n, t in found.items()
    } == {
        "minilmv2@t0": ("t0", 8, -1),
        "minilmv2@t1": ("t1", 16, -1),
    }
