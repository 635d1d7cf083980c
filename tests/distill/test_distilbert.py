"""DistilBERT's cosine against a loop over positions, its LayerNorms, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.method import Batch, ModelShape, StepContext
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.taps import Tap, TapKey
from glmkd_nemo.replay.flags import Setting, translation_of

STUDENT, TEACHER = ModelShape(2, 6, 2), ModelShape(5, 6, 3)
pytestmark = pytest.mark.usefixtures("alone")
OUTPUT: TapKey = ("output", None)
MASKS = {
    "target": [[0, 0, 1, 1], [0, 1, 0, 0]],
    "pad_labels": [[1, 0, 1, 1], [0, 1, 1, 0]],
    "pad_positions": [[1, 1, 1, 0], [1, 1, 1, 1]],
    "none": [[1, 1, 1, 1], [1, 1, 1, 1]],
}


def batch() -> Batch:
    return Batch(
        input_ids=torch.ones(2, 4, dtype=torch.long),
        position_ids=torch.tensor([[[0, 1, 2, 0], [0] * 4], [[0, 1, 2, 3], [0] * 4]]),
        attention_mask=torch.tensor([1, 1]),
        labels=torch.tensor([[3, 0, 4, 5], [0, 6, 7, 0]]),
        loss_mask=torch.tensor(MASKS["target"]).double(),
    )


def method(student: ModelShape = STUDENT, teacher: ModelShape = TEACHER, **options: Any):
    cls = method_class("distilbert")
    return cls(cls.Config(**options), student, teacher).double()


def states() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randn(2, 4, 6, generator=g, dtype=torch.float64) for _ in range(2))
    return s, t


def plain(s: Tensor, t: Tensor, mask: list[list[int]]) -> Tensor:
    """A masked position counts as orthogonal."""
    rows = []
    for sample in range(2):
        row = []
        for i in range(4):
            x, y = s[sample, i], t[sample, i]
            row.append(1 - mask[sample][i] * (x @ y) / (x.norm() * y.norm()))
        rows.append(torch.stack(row).mean())
    return torch.stack(rows)


@pytest.mark.parametrize("mask", MASKS)
def test_cosine_by_mask(mask: str):
    (part,) = method(mask=mask).parts(StepContext())
    assert (part.name, part.student, part.teacher) == ("cosine", (OUTPUT,), (OUTPUT,))
    s, t = states()
    s.requires_grad_()
    found = part.loss({OUTPUT: Tap(s)}, {OUTPUT: Tap(t)}, batch())
    torch.testing.assert_close(found, plain(s, t, MASKS[mask]))
    found.sum().backward()
    assert s.grad is not None
    seen = torch.tensor(MASKS[mask]).bool()
    assert bool(s.grad[seen].any(-1).all())
    assert not bool(s.grad[~seen].any())


def test_fixed_layernorm_reads_what_layers_pass_on():
    m = method(fix_layernorm=True)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in m.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype))
    (part,) = m.parts(StepContext())
    assert (part.student, part.teacher) == ((("layer_output", 1),), (("layer_output", 4),))
    s, t = states()
    found = part.loss({part.student[0]: Tap(s)}, {part.teacher[0]: Tap(t)}, batch())

    def normed(x: Tensor, norm: Any) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * norm.weight + norm.bias

    expected = plain(normed(s, m.layernorm), normed(t, m.t_layernorm), MASKS["pad_labels"])
    torch.testing.assert_close(found, expected)
    trained = {name for name, p in m.named_parameters() if p.requires_grad}
    assert trained == {"layernorm.weight", "layernorm.bias"}


def test_teachers_of_one_term_share_the_students_layernorm():
    term = term_from_dict(
        "d", {"method": "distilbert", "fix_layernorm": True}, ["a", "b"], aggregated=True
    )
    shapes = {"a": TEACHER, "b": TEACHER}
    both = Objective({"d": term}, STUDENT, shapes, aggregator={"name": "mean"}).methods
    assert both["d@a"].layernorm is both["d@b"].layernorm
    assert both["d@a"].t_layernorm is not both["d@b"].t_layernorm


def test_refused():
    with pytest.raises(ValueError, match="'pad' is unknown: target, pad_labels"):
        method(mask="pad")
    with pytest.raises(ValueError, match="6 dimensions and the teacher's 12: choose equal"):
        method(teacher=ModelShape(5, 12, 2))


def test_translation_of_the_original_options():
    terms = translation_of("distilbert").terms
    recipe = {
        "distill_temperature": "2",
        "distilbert_alpha_ce": "5",
        "distilbert_alpha_mlm": "2",
        "distilbert_cos_mask_padding": True,
    }
    found = terms(recipe, Setting("pt", 6, (12,)), {})
    assert {name: term["weight"] for name, term in found.items()} == {
        "soft": 5.0,
        "hard": 2.0,
        "distilbert": 1.0,
    }
    assert (found["soft"]["mask"], found["distilbert"]["mask"]) == ("target", "pad_labels")
    on_task = terms(recipe, Setting("ft_multi", 6, (12,)), {})
    assert on_task.keys() == {"soft", "hard"}  # no mask of tokens: no cosine there
    assert {term["of"] for term in on_task.values()} == {"classes"}
    none = {"distilbert_alpha_mlm": "0", "distilbert_alpha_cos": "0"}
    assert terms(none, Setting("pt", 6, (12,)), {}).keys() == {"soft"}


def test_translation_refuses_options_without_effect():
    predictions = {"hard": {"method": "hard"}}
    with pytest.raises(ValueError, match=r"hard has no effect.*--distilbert_alpha_mlm"):
        translation_of("distilbert").terms({}, Setting("pt", 6, (12,)), predictions)
