"""Weights of teachers against plain formulas, how losses add up, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmkd_nemo.distill.aggregator import Weights
from glmkd_nemo.distill.aggregators import aggregator_from_dict
from glmkd_nemo.distill.combine import combined
from glmkd_nemo.distill.method import Batch, ModelShape, Part, StepContext, TaskBatch
from glmkd_nemo.distill.objective import WeightedPart
from glmkd_nemo.distill.taps import Tap
from tests.distill.aggregator_cases import handle, normal, tokens

B, S, V, C = 4, 6, 10, 3
SHAPE = ModelShape(2, 5, 1, V)
LOGITS, CLASSES, FIRST = ("logits", None), ("classes", None), ("output_first", None)
CONTEXT = StepContext(seed=3)
CHOICES = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 1, 1]])
LABEL = torch.tensor([2, 0, 1, 1])
pytestmark = pytest.mark.usefixtures("alone")


def built(teachers: int = 2, **options: Any) -> Any:
    return aggregator_from_dict(options, SHAPE, [SHAPE] * teachers).double()


def task() -> Batch:
    plain = tokens(B, S, V)
    fields = {k: getattr(plain, k) for k in ("input_ids", "position_ids", "attention_mask")}
    answers = TaskBatch(LABEL, choice_mask=CHOICES)
    return Batch(**fields, labels=plain.labels, loss_mask=plain.loss_mask, task=answers)


def of_tokens(x: Tensor) -> dict[Any, Any]:
    return {LOGITS: handle(x), FIRST: Tap(x[:, 0, : SHAPE.hidden])}


def of_classes(x: Tensor) -> dict[Any, Any]:
    return {CLASSES: Tap(x)}


def logits(seed: int) -> Tensor:
    return 3 * normal(B, S, V, seed=seed)


def scores(seed: int) -> Tensor:
    return 3 * normal(B, C, seed=seed)


def token_loss(x: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of each sample's targets."""
    rows = F.cross_entropy(x.flatten(0, 1), batch.labels.flatten(), reduction="none").view(B, S)
    return (rows * batch.loss_mask).sum(1) / batch.loss_mask.sum(1)


def class_loss(x: Tensor) -> Tensor:
    rows = [F.cross_entropy(r[m.bool()], r.new_tensor(_place(m, y), dtype=torch.long))
            for r, m, y in zip(x, CHOICES, LABEL, strict=True)]  # fmt: skip
    return torch.stack(rows)


def _place(mask: Tensor, label: Tensor) -> int:
    return int(mask[: int(label)].sum())


def token_entropy(x: Tensor, mask: Tensor) -> Tensor:
    """GLMKD: logits times mask, entropy over log V, mean over all positions."""
    p = (x * mask.unsqueeze(-1)).softmax(-1)
    return -(p * p.log()).sum(-1).mean(1) / torch.tensor(V).double().log()


def class_entropy(x: Tensor) -> Tensor:
    found = []
    for row, mask in zip(x, CHOICES, strict=True):
        p = row[mask.bool()].softmax(0)
        found.append(-(p * p.log()).sum() / torch.tensor(float(mask.sum())).double().log())
    return torch.stack(found)


def check_same(found: Any, expected: Any) -> None:
    for x, y in zip(found, expected, strict=True):
        x, y = (torch.as_tensor(z, dtype=torch.float64).expand(B) for z in (x, y))
        torch.testing.assert_close(x, y)


# ---- mean, DGKD ---------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "factor"), [(False, 1 / 3), (True, 1.0)])
def test_mean_of_all(total: bool, factor: float):
    found = built(3, name="mean", sum=total).weights({}, [], tokens(B, S, V), CONTEXT)
    assert list(found.prediction) == list(found.intermediate) == [pytest.approx(factor)] * 3
    assert found.hard == 1.0
    assert built(3, name="mean", hard=False).weights({}, [], task(), CONTEXT).hard == 0.0


def test_dgkd_counts_survivors_and_the_hard_label():
    dgkd, seen = built(3, name="mean", survival=0.5), set()
    for number in range(40):
        context = StepContext(seed=3, step=number // 4, micro_batch=number % 4)
        found = dgkd.weights({}, [], task(), context)
        alive = [factor > 0 for factor in found.prediction]
        share = 1 / (sum(alive) + 1)
        assert list(found.prediction) == [share * a for a in alive]
        assert found.hard == share
        # a resumed run, and all ranks, draw the same; one micro-batch has one draw
        assert dgkd.intermediate(context) == list(found.intermediate) == list(found.prediction)
        assert built(3, name="mean", survival=0.5).intermediate(context) == list(found.prediction)
        seen.add(tuple(alive))
    assert len(seen) == 8
    summed = built(3, name="mean", survival=0.5, sum=True).weights({}, [], task(), CONTEXT)
    assert set(summed.prediction) <= {0.0, 1.0}
    assert summed.hard == 1.0


# ---- MT-BERT ------------------------------------------------------------------------------


def test_mt_bert_on_tokens():
    batch, teachers = tokens(B, S, V), [logits(1), logits(2)]
    found = built(name="mt_bert").weights({}, [of_tokens(t) for t in teachers], batch, CONTEXT)
    check_same(found.prediction, [1 / (1 + token_loss(t, batch)) for t in teachers])
    assert (list(found.intermediate), found.hard) == ([1.0, 1.0], 1.0)


def test_mt_bert_on_classes():
    teachers = [scores(1), scores(2)]
    taps = [of_classes(t) for t in teachers]
    found = built(name="mt_bert", of="classes").weights({}, taps, task(), CONTEXT)
    check_same(found.prediction, [1 / (1 + class_loss(t)) for t in teachers])


# ---- uncertainty --------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["target", "none"])
def test_soft_choice_on_tokens_with_its_gradient(mask: str):
    batch, x = tokens(B, S, V), logits(1).requires_grad_()
    soft = built(3, name="uncertainty", hard=False, mask=mask)
    found = torch.stack(list(soft.weights(of_tokens(x), [], batch, CONTEXT).prediction))
    h = token_entropy(x, batch.mask(mask))
    small_to_large = torch.stack([h, (h + 1 - h) / 2, 1 - h])  # places 0, 1/2, 1
    expected = small_to_large / small_to_large.sum(0)
    torch.testing.assert_close(found, expected)
    factor = normal(3, B)
    gradients = [torch.autograd.grad((y * factor).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].any()


def test_soft_choice_on_classes_leaves_padded_answers_out():
    x = scores(1)
    soft = built(name="uncertainty", hard=False, of="classes")
    h = class_entropy(x)
    check_same(soft.weights(of_classes(x), [], task(), CONTEXT).prediction, [h, 1 - h])
    wild = torch.where(CHOICES.bool(), x, 1e4)
    check_same(soft.weights(of_classes(wild), [], task(), CONTEXT).prediction, [h, 1 - h])


@pytest.mark.parametrize("order", [None, [1, 0]])
def test_hard_choice_by_rank(order: list[int] | None):
    x = scores(1)
    hard = built(name="uncertainty", of="classes", order=order)
    small, large = hard.weights(of_classes(x), [], task(), CONTEXT).prediction
    if order:
        small, large = large, small
    unsure = class_entropy(x).argsort(descending=True)[: B // 2]
    check_same(
        [small, large], [F.one_hot(unsure, B).sum(0) / 2, 1 / 2 - F.one_hot(unsure, B).sum(0) / 2]
    )


def test_a_batch_smaller_than_the_teachers_is_weighed_softly():
    x, five = scores(1), {"name": "uncertainty", "of": "classes"}
    found, soft = (
        built(5, **five, hard=hard).weights(of_classes(x), [], task(), CONTEXT).prediction
        for hard in (True, False)
    )
    check_same(found, soft)


def test_no_choice_and_intermediate_losses_by_entropy():
    x = scores(1)
    options = {"name": "uncertainty", "of": "classes", "select": False}
    found = built(**options).weights(of_classes(x), [], task(), CONTEXT)
    check_same([*found.prediction, *found.intermediate], [0.5] * 4)
    assert built(**options).fixed_intermediate
    inter = built(**options, inter_entropy=True)
    found, h = inter.weights(of_classes(x), [], task(), CONTEXT), class_entropy(x)
    check_same([*found.prediction, *found.intermediate], [(1 - h) / 2] * 2 + [h / 2] * 2)
    assert not inter.fixed_intermediate


# ---- RL-KD --------------------------------------------------------------------------------


def test_first_phase_of_rl_kd():
    average = built(name="rl_kd", phase="average", alpha=0.25, semantic_teacher=None)
    found = average.weights({}, [], task(), CONTEXT)
    assert (list(found.prediction), list(found.intermediate)) == ([0.125] * 2, [0.125] * 2)
    assert (found.hard, dict(found.extra)) == (0.75, {})


@pytest.mark.parametrize("reward", [1, 2])
@pytest.mark.parametrize("of", ["tokens", "classes"])
def test_the_agent_is_rewarded_one_forward_later(of: str, reward: int):
    options = {"name": "rl_kd", "alpha": 0.25, "semantic_teacher": 1, "reward": reward, "of": of}
    agent_of = built(3, **options, classes=C)
    batch = tokens(B, S, V) if of == "tokens" else task()
    forwards = [_forward(of, seed) for seed in (10, 20)]
    found = [
        agent_of.weights(student, teachers, batch, StepContext(seed=3, step=n))
        for n, (student, teachers, _) in enumerate(forwards)
    ]
    assert not found[0].extra
    selected = torch.stack([found[0].prediction[i] for i in (0, 2)], -1) > 0
    raw = forwards[0][2]
    losses = [token_loss(x, batch) if of == "tokens" else class_loss(x) for x in raw]
    mask = batch.loss_mask.unsqueeze(-1)
    means = [(x * mask).mean(1) if of == "tokens" else x for x in raw]
    first = forwards[0][1][1][FIRST].value
    agent = agent_of.agent
    p = (
        agent.semantic_mt_loss(torch.cat([first, losses[1][:, None], losses[3][:, None]], -1))
        + agent.mt_soft(torch.cat([means[1], means[3]], -1))
    ).sigmoid()
    policy = torch.where(selected, p, 1 - p).sum()
    student, last = forwards[1][2][0], forwards[1][2][-1]
    earned = -_batch_loss(of, student, batch) - (reward == 2) * _batch_loss(of, last, batch)
    torch.testing.assert_close(found[1].extra["policy"], -policy * earned)
    assert found[1].extra_weight == 0.25


def _forward(of: str, seed: int) -> Any:
    """Student and three teachers: taps, and their predictions with the student's first."""
    draw = logits if of == "tokens" else scores
    raw = [draw(seed + i) for i in range(4)]
    taps = [of_tokens(x) if of == "tokens" else of_classes(x) for x in raw]
    for i, found in enumerate(taps):
        found[FIRST] = Tap(normal(B, SHAPE.hidden, seed=seed + i))
    return taps[0], taps[1:], raw


def _batch_loss(of: str, x: Tensor, batch: Batch) -> Tensor:
    if of == "classes":
        return class_loss(x).mean()
    target = batch.loss_mask.bool()
    return F.cross_entropy(x[target], batch.labels[target])


def test_the_agent_draws_which_teachers_teach_a_sample():
    agent_of = built(3, name="rl_kd", alpha=0.5, of="classes", classes=C)
    assert agent_of.taught_by == [1, 2]
    student, teachers, _ = _forward("classes", 5)
    draws = [
        torch.stack(list(agent_of.weights(student, teachers, task(), context).prediction[1:]))
        for context in [StepContext(seed=3, step=n) for n in (0, 1, 0)]
    ]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert set(draws[0].flatten().tolist()) == {0.0, 0.25}  # alpha / 2 teachers
    assert agent_of.weights(student, teachers, task(), CONTEXT).prediction[0] == 0.0
    with torch.no_grad():
        agent_of.agent.semantic_mt_loss.bias.fill_(1e4)  # certain of all
    assert (agent_of.weights(student, teachers, task(), CONTEXT).prediction[1] == 0.25).all()


def test_memory_of_the_agent():
    first, second = (built(3, name="rl_kd", of="classes", classes=C) for _ in range(2))
    second.load_state_dict(first.state_dict())
    assert first.memory() is None
    before, after = _forward("classes", 5), _forward("classes", 6)
    first.weights(*before[:2], task(), CONTEXT)
    second.recall(first.memory())
    losses = [x.weights(*after[:2], task(), CONTEXT).extra["policy"] for x in (first, second)]
    assert torch.equal(*losses)


# ---- mixture and the sum of losses --------------------------------------------------------


def test_a_mixture_adds_up_its_members():
    members = [{"name": "mean", "hard": False}, {"name": "mt_bert", "of": "classes"}]
    members += [{"name": "uncertainty", "of": "classes", "hard": False, "inter_entropy": True}]
    teachers, x = [of_classes(scores(1)), of_classes(scores(2))], of_classes(scores(3))
    mixture = built(name="mixture", members=members)
    assert not mixture.fixed_intermediate
    found = mixture.weights(x, teachers, task(), CONTEXT)
    each = [built(**m).weights(x, teachers, task(), CONTEXT) for m in members]
    for kind in ("prediction", "intermediate"):
        columns = zip(*(getattr(w, kind) for w in each), strict=True)
        check_same(getattr(found, kind), [sum(column) for column in columns])
    assert found.hard == 0 + 1 + 1


def test_the_total_is_the_weighted_sum():
    soft, state, hard = normal(B, seed=1), normal(2 * B, seed=2), normal(B, seed=3)
    factors = [normal(B, seed=4), 0.5], [0.25, normal(B, seed=5)]
    weights = Weights(*factors, hard=0.75, extra={"own": normal(1, seed=6)}, extra_weight=0.3)

    def part(weight: float, teacher: str | None, prediction: bool) -> WeightedPart:
        return WeightedPart("x", weight, Part("x", sum, (), prediction=prediction), teacher)

    values = [
        (part(2.0, "t0", True), soft),
        (part(3.0, "t1", True), soft),
        (part(5.0, "t0", False), state),
        (part(7.0, "t1", False), state),  # two sequences of each sample
        (part(0.5, None, True), hard),
    ]
    total = 2 * (soft * factors[0][0]).mean() + 3 * 0.5 * soft.mean() + 5 * 0.25 * state.mean()
    total += 7 * (state.view(B, 2).mean(1) * factors[1][1]).mean()
    total += 0.5 * 0.75 * hard.mean() + 0.3 * weights.extra["own"].mean()
    torch.testing.assert_close(combined(values, weights, ["t0", "t1"]), total)
    plain = combined(values[:1], None, ["t0", "t1"])
    torch.testing.assert_close(plain, 2 * soft.mean())
