"""Task heads against plain torch, and in every layout against one whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glmkd_nemo.distill.method import TaskBatch, batch_of
from glmkd_nemo.distill.taps import record
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.heads import HeadConfig
from glmkd_nemo.models.logits import Logits
from tests.launch import run_ranks
from tests.models import heads, tiny

LAYOUTS = ("tp2", "tp2_sp", "tp2_sp_recompute", "pp2")
pytestmark = [pytest.mark.usefixtures("alone"), pytest.mark.timeout(300)]


def build(name: str | None) -> GLMModel:
    """A model with the head of a case, or without any."""
    tiny.reseed()
    if name is None:
        return GLMModel(tiny.config()).double()
    form = heads.CASES[name]
    config = glm_config_from_cfg({**tiny.SECTION, **form.section}, heads.VOCAB)
    net = GLMModel(config, head=form.head).double()
    heads.fill_vocab_map(net)
    return net


def classes(net: GLMModel, fields: dict[str, Any]) -> Tensor:
    batch = batch_of(fields)
    return net(batch.input_ids, batch.position_ids, batch.attention_mask, task=batch.task)


def token_logits(net: GLMModel, fields: dict[str, Any]) -> Tensor:
    return net(fields["input_ids"], fields["position_ids"], fields["attention_mask"])


def plain_multi_token(logits: Tensor, ids: Tensor, task: TaskBatch, head: HeadConfig) -> Tensor:
    """``[b * c]``: answer by answer, token by token."""
    found = []
    for rows, tokens_of_answer, mask in zip(logits, ids, task.target_mask, strict=True):
        score, tokens = torch.zeros((), dtype=rows.dtype), 0
        for row, token, counts in zip(rows, tokens_of_answer, mask, strict=True):
            if counts:
                row = row if head.log_softmax is False else row.log_softmax(-1)
                score, tokens = score + row[token], tokens + 1
        found.append(score / max(tokens, 1) ** head.length_penalty)
    return torch.stack(found)


def plain(net: GLMModel, name: str, fields: dict[str, Any]) -> Tensor:
    """The class logits of a model by the head's definition."""
    head, task = heads.CASES[name].head, fields["task"]
    logits, sep, ids = token_logits(net, fields), fields["attention_mask"], task.target_ids
    if name == "unmapped":
        assert logits.shape[-1] == 26
        ids = ids // 2  # the column of each token, or of its neighbour
    if head.kind == "single_token":
        rows = torch.stack([sample[at] for sample, at in zip(logits, sep, strict=True)])
        rows = rows.log_softmax(-1) if head.log_softmax else rows
        return torch.stack([r[tokens] for r, tokens in zip(rows, ids, strict=True)])
    if head.kind == "multi_token":
        return plain_multi_token(logits, ids, task, head).view(heads.EXAMPLES, -1)
    with record([("output", None)]) as taps:
        token_logits(net, fields)
    offset = {"cls": -sep, "start": 0, "pad": -1}[head.pool]
    states = taps["output", None].value
    state = torch.stack([h[at] for h, at in zip(states, sep + offset, strict=True)])
    p = dict(net.head.named_parameters())
    hidden = torch.tanh(state @ p["pooler.weight"].T + p["pooler.bias"])
    return (hidden @ p["classifier.weight"].T + p["classifier.bias"]).view(heads.EXAMPLES, -1)


@pytest.mark.parametrize("name", [n for n in heads.CASES if n != "packed"])
def test_a_head_is_what_it_is_defined_as(name: str):
    net, batch = build(name), heads.CASES[name].fields()
    found, expected = classes(net, batch), plain(net, name, batch)
    assert found.shape == expected.shape
    assert found.shape[0] == heads.EXAMPLES
    torch.testing.assert_close(found, expected)
    weights = torch.arange(1.0, 1.0 + found.numel()).view_as(found).double()
    parameters = list(net.parameters())
    mine = torch.autograd.grad((found * weights).sum(), parameters, allow_unused=True)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters, allow_unused=True)
    for x, y in zip(mine, theirs, strict=True):
        assert (x is None) == (y is None)
        torch.testing.assert_close(x, y)


def test_answers_behind_one_context_are_worth_the_same():
    net, together, apart = build("packed"), heads.packed(), heads.spread()
    assert together["input_ids"].shape == (3, 6 + 2 * 4)
    assert apart["input_ids"].shape == (6, 6 + 4)
    found, expected = classes(net, together), classes(net, apart)
    torch.testing.assert_close(found, expected)
    assert found[2, 1] == 0.0  # an answer without tokens
    parameters = list(net.parameters())
    mine = torch.autograd.grad(found.square().sum(), parameters)
    theirs = torch.autograd.grad(expected.square().sum(), parameters)
    torch.testing.assert_close(mine, theirs)


def test_only_rows_of_answers_meet_the_head(monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    rows = Logits.rows

    def counted(self: Logits, mask: Tensor) -> Tensor:
        seen.append(int(mask.sum()))
        return rows(self, mask)

    monkeypatch.setattr(Logits, "rows", counted)
    monkeypatch.setattr(Logits, "all", lambda self: pytest.fail("all positions multiplied out"))
    for name, expected in (("single_token", [3]), ("packed", [11]), ("start", [])):
        seen.clear()
        classes(build(name), heads.CASES[name].fields())
        assert seen == expected, name


def test_classes_are_tapped_if_wanted_only(monkeypatch: pytest.MonkeyPatch):
    fields = heads.CASES["single_token"].fields
    net, batch = build("single_token"), batch_of(fields())
    inputs = batch.input_ids, batch.position_ids, batch.attention_mask
    with record([("classes", None)]) as taps:
        handle = net(*inputs, materialize=False, task=batch.task)
    assert isinstance(handle, Logits)
    torch.testing.assert_close(taps["classes", None].value, classes(net, fields()))
    monkeypatch.setattr(net.head, "forward", lambda *args: pytest.fail("the head ran"))
    assert isinstance(net(*inputs, materialize=False, task=batch.task), Logits)
    assert net(*inputs).shape == (3, heads.CONTEXT, heads.VOCAB)  # no task: a language model
    assert build(None)(*inputs, task=batch.task).shape == (3, heads.CONTEXT, tiny.VOCAB)


def test_parameters_of_heads():
    assert not list(build("packed").head.parameters())
    named = dict(build("cls").named_parameters())
    shapes = {n: tuple(p.shape) for n, p in named.items() if n.startswith("head.")}
    assert shapes == {
        "head.pooler.weight": (16, 16),
        "head.pooler.bias": (16,),
        "head.classifier.weight": (3, 16),
        "head.classifier.bias": (3,),
    }
    assert not named["head.pooler.bias"].any()
    assert 0.2 < float(named["head.pooler.weight"].detach().std()) < 0.4  # config.init_method


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "bilinear"}, "head.kind 'bilinear' is unknown: single_token"),
        ({"kind": "pooled", "pool": "mean"}, "head.pool 'mean' is unknown: cls"),
        ({"kind": "single_token", "length_penalty": 1.0}, "length_penalty is of kind=multi_token"),
        ({"kind": "multi_token", "length_penalty": -1.0}, "length_penalty"),
        ({"kind": "pooled", "log_softmax": True}, "log_softmax is of the cloze heads"),
        ({"kind": "multi_token", "num_classes": 2}, "num_classes is of kind=pooled"),
        ({"kind": "pooled", "num_classes": 0}, "num_classes"),
    ],
)
def test_refused_heads(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        HeadConfig(**options)


@pytest.mark.parametrize("name", ["single_token", "start"])
def test_a_position_must_be_told(name: str):
    fields = heads.CASES[name].fields
    square = torch.ones(3, heads.CONTEXT, heads.CONTEXT, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"must be \[b\] \(sep\)"):
        classes(build(name), {**fields(), "attention_mask": square})


def test_a_blank_behind_the_end_is_refused():
    fields = heads.CASES["single_token"].fields
    sep = torch.tensor([2, heads.CONTEXT, 3])
    with pytest.raises(ValueError, match="lies outside of the 6 positions"):
        classes(build("single_token"), {**fields(), "attention_mask": sep})


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder: Path = tmp_path_factory.mktemp("heads")
    arguments = {"folder": str(folder)}
    return run_ranks("tests.models.heads_ranks:everything", 2, arguments, timeout=280)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", heads.CASES)
def test_layouts_change_nothing(on_two_ranks: dict[str, list[str]], name: str, layout: str):
    assert on_two_ranks[f"{name}-{layout}"] == []


@pytest.mark.parametrize("check", ["dropout", "checkpoint"])
def test_pooled_heads_on_two_ranks(on_two_ranks: dict[str, list[str]], check: str):
    assert on_two_ranks[check] == []
