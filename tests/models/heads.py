"""Batches of every form of a task, for tests of heads: three examples, two answers each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glmkd_nemo.distill import task_batch
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.heads import HeadConfig
from glmkd_nemo.models.vocab_map import Tables

EXAMPLES, CHOICES, CONTEXT, ANSWER = 3, 2, 6, 4
VOCAB = 51  # odd: ranks differ in real columns
LABEL = torch.tensor([1, 0, 1])
SEP = torch.tensor([5, 4, 3])


def _ids(*shape: int, seed: int) -> Tensor:
    return torch.randint(1, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def context() -> tuple[Tensor, Tensor, Tensor]:
    """Input ids, position ids and sep of the context."""
    place = torch.arange(CONTEXT).expand(EXAMPLES, CONTEXT)
    position = torch.stack([place, torch.zeros_like(place)], 1)
    return _ids(EXAMPLES, CONTEXT, seed=0), position, SEP


def answers() -> tuple[Tensor, Tensor, Tensor]:
    """Input ids and position ids of the answers; how much of the context they see."""
    block = torch.arange(1, ANSWER + 1).expand(EXAMPLES, CHOICES, ANSWER)
    position = torch.stack([torch.full_like(block, 2), block], 2)
    return _ids(EXAMPLES, CHOICES, ANSWER, seed=1), position, SEP.unsqueeze(1).expand(-1, CHOICES)


def targets() -> tuple[Tensor, Tensor]:
    """Tokens of the answers ``[b, c, d]`` and their mask; the very last answer has none."""
    lengths = torch.tensor([[4, 1], [2, 3], [1, 0]])
    return _ids(EXAMPLES, CHOICES, ANSWER, seed=2), torch.arange(ANSWER) < lengths.unsqueeze(-1)


def packed() -> dict[str, Any]:
    """All answers behind one context."""
    return task_batch.packed_choices(context(), answers(), *targets(), LABEL)


def spread() -> dict[str, Any]:
    """The same, each answer behind a copy of the context, of which only ``sep`` is seen."""
    (text, position, sep), (answer, answer_position, _) = context(), answers()

    def behind(first: Tensor, second: Tensor) -> Tensor:
        copies = first.unsqueeze(1).expand(-1, CHOICES, *first.shape[1:])
        return torch.cat([copies, second], -1)

    ids, mask = targets()
    nothing = torch.zeros_like(text)
    fields = task_batch.multi_token(
        behind(text, answer),
        behind(position, answer_position),
        sep.unsqueeze(1).expand(-1, CHOICES),
        behind(nothing, ids),
        behind(nothing, mask.long()),
        LABEL,
    )
    return {**fields, "attention_mask": _hide_rest_of_context(fields["attention_mask"])}


def _hide_rest_of_context(sep: Tensor) -> Tensor:
    """Answers see the context up to ``sep`` only, as in the packed form."""
    place = torch.arange(CONTEXT + ANSWER)
    causal = place.unsqueeze(1) >= place
    rest = (place >= sep.unsqueeze(1)) & (place < CONTEXT)
    hidden = (place >= CONTEXT).view(1, -1, 1) & rest.unsqueeze(1)
    return (causal | (place < sep.unsqueeze(1)).unsqueeze(1)) & ~hidden


def multi_token() -> dict[str, Any]:
    """Every answer with its context, one of them only padding."""
    fields = spread()
    task = fields["task"]
    text, position = fields["input_ids"], fields["position_ids"]
    shape = (EXAMPLES, CHOICES)
    return task_batch.multi_token(
        text.unflatten(0, shape),
        position.unflatten(0, shape),
        SEP.unsqueeze(1).expand(shape),
        task.target_ids.unflatten(0, shape),
        task.target_mask.unflatten(0, shape),
        LABEL,
        torch.tensor([[1, 1], [1, 1], [0, 1]]),
    )


def single_token() -> dict[str, Any]:
    """Three verbalizers at the blank."""
    return task_batch.single_token(*context(), _ids(EXAMPLES, 3, seed=4), LABEL)


def sequences() -> dict[str, Any]:
    """Sequences to be classified."""
    return task_batch.pooled(*context(), LABEL)


def choices() -> dict[str, Any]:
    """Sequences that are the choices."""
    fields, shape = spread(), (EXAMPLES, CHOICES)
    text, position = (fields[n].unflatten(0, shape) for n in ("input_ids", "position_ids"))
    return task_batch.pooled(text, position, SEP.unsqueeze(1) + torch.arange(CHOICES), LABEL)


class Form(NamedTuple):
    """A head, a batch for it, and what its model has that others do not."""

    head: HeadConfig
    fields: Callable[[], dict[str, Any]]
    section: Mapping[str, Any] = MappingProxyType({})  # of the `model` section of a configuration


def fill_vocab_map(model: GLMModel) -> None:
    """Keeps the tokens of even number; an odd one is replaced by its neighbour."""
    if model.vocab_map is not None:
        ids = torch.arange(VOCAB)
        model.vocab_map.fill(Tables(ids[::2], ids // 2))


MAPPED = {"vocab_map": {"size": (VOCAB + 1) // 2, "unmap_output": False}}
UNMAPPED = {"vocab_map": {**MAPPED["vocab_map"], "unmap_output": True}}
CASES: dict[str, Form] = {
    "single_token": Form(HeadConfig("single_token"), single_token),
    "single_token_softmax": Form(HeadConfig("single_token", log_softmax=True), single_token),
    "multi_token": Form(HeadConfig("multi_token"), multi_token),
    "multi_token_logits": Form(HeadConfig("multi_token", log_softmax=False), multi_token),
    "multi_token_length": Form(HeadConfig("multi_token", length_penalty=0.7), multi_token),
    "packed": Form(HeadConfig("multi_token", length_penalty=0.7), packed),
    "mapped": Form(HeadConfig("single_token", log_softmax=True), single_token, MAPPED),
    "unmapped": Form(HeadConfig("multi_token"), multi_token, UNMAPPED),
    "factorised": Form(HeadConfig("multi_token"), multi_token, {"embedding_size": 8}),
    "cls": Form(HeadConfig("pooled", pool="cls", num_classes=3, dropout=0.0), sequences),
    "start": Form(HeadConfig("pooled", pool="start", num_classes=3, dropout=0.0), sequences),
    "pad": Form(HeadConfig("pooled", pool="pad", dropout=0.0), choices, {"embedding_size": 8}),
}
