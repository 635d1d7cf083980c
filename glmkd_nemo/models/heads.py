"""Task heads: from the last hidden states of a GLM to one logit per answer, ``[b, c]``.

Cloze heads (arXiv 2103.10360, section 2.3) have no parameters: an answer is worth what the language
model gives to its tokens. The pooled head is a classifier on the hidden state of one position.
Values and gradients are those of one process whatever the parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glmkd_nemo.distill.losses import at_least_fp32, log_partition
from glmkd_nemo.distill.method import TaskBatch
from glmkd_nemo.distill.parallel import all_sum, tp_rank
from glmkd_nemo.distill.top_n import pick
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.logits import Logits

KINDS = ("single_token", "multi_token", "pooled")
POOLS = ("cls", "start", "pad")


@dataclass(frozen=True)
class HeadConfig:
    """Which head stands on a model.

    Attributes:
        kind: ``single_token`` (each answer is one token at the blank), ``multi_token`` (each
            answer is a text of its own length) or ``pooled`` (a classifier).
        log_softmax: cloze heads take log-probabilities instead of logits; ``None``: as GLM does,
            which is so for ``multi_token`` only.
        length_penalty: of ``multi_token``: answers are divided by their number of tokens to this
            power.
        pool: position that ``pooled`` reads: ``cls`` (the first), ``start`` (the first after the
            context) or ``pad`` (the last of the context).
        num_classes: of ``pooled``: outputs per sequence; 1 where the sequences are the choices.
        dropout: of ``pooled``, before its last layer.

    Raises:
        ValueError: a value that is unknown, or that this kind of head does not have.
    """

    kind: str
    log_softmax: bool | None = None
    length_penalty: float = 0.0
    pool: str = "cls"
    num_classes: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"head.kind {self.kind!r} is unknown: {', '.join(KINDS)}.")
        if self.pool not in POOLS:
            raise ValueError(f"head.pool {self.pool!r} is unknown: {', '.join(POOLS)}.")
        if self.length_penalty < 0.0 or (self.length_penalty and self.kind != "multi_token"):
            raise ValueError("head.length_penalty is of kind=multi_token, 0 or more.")
        if self.log_softmax is not None and self.kind == "pooled":
            raise ValueError("head.log_softmax is of the cloze heads: leave it out.")
        if self.num_classes < 1 or (self.num_classes > 1 and self.kind != "pooled"):
            raise ValueError(
                "head.num_classes is of kind=pooled, 1 or more: a cloze head has as many as the "
                "batch has answers."
            )


def build_head(head: HeadConfig, config: GLMConfig) -> nn.Module:
    """The head of a model of these sizes."""
    if head.kind == "pooled":
        return PooledHead(head, config)
    return (SingleTokenCloze if head.kind == "single_token" else MultiTokenCloze)(head)


class SingleTokenCloze(nn.Module):
    """Logits of one verbalizer token per answer at the blank, position ``sep``."""

    def __init__(self, head: HeadConfig) -> None:
        super().__init__()
        self.log_softmax = bool(head.log_softmax)

    def forward(self, h_sbh: Tensor, logits: Logits, task: TaskBatch, sep: Tensor) -> Tensor:
        """Reads off the answers.

        Args:
            h_sbh: unused.
            logits: of the language model, ``[b, s]`` positions.
            task: with ``target_ids [b, c]``.
            sep: ``[b]``, the blank.

        Returns:
            ``[b, c]``.

        Raises:
            ValueError: a blank lies behind the end of the sequence.
        """
        b, s = logits.shape
        rows = logits.rows(_at(_one_number(sep, "single_token"), s))
        if rows.shape[0] != b:
            raise ValueError(f"a blank (attention_mask) lies outside of the {s} positions.")
        assert task.target_ids is not None, "a single_token head needs target_ids"
        ids = logits.columns_of(task.target_ids)
        return _token_scores(rows, ids, logits.columns.start, self.log_softmax)


class MultiTokenCloze(nn.Module):
    """Sum of the (log-)probabilities of the tokens of each answer.

    The answers are sequences of their own, ``b * c`` rows, or stand one after the other behind
    one context (``TaskBatch.choice_of``), see :mod:`glmkd_nemo.distill.task_batch`.
    """

    def __init__(self, head: HeadConfig) -> None:
        super().__init__()
        self.log_softmax = head.log_softmax is not False
        self.length_penalty = head.length_penalty

    def forward(self, h_sbh: Tensor, logits: Logits, task: TaskBatch, sep: Tensor) -> Tensor:
        """Adds up the answers' tokens.

        Args:
            h_sbh, sep: unused.
            logits: of the language model; only rows of answers' tokens are multiplied out.
            task: with ``target_ids``, ``target_mask`` and, if packed, ``choice_of``.

        Returns:
            ``[b, c]``; 0 for an answer without tokens.
        """
        assert task.target_ids is not None, "a multi_token head needs target_ids"
        assert task.target_mask is not None, "a multi_token head needs target_mask"
        mask, b = task.target_mask.bool(), task.label.shape[0]
        ids = logits.columns_of(task.target_ids[mask]).unsqueeze(-1)
        scores = _token_scores(logits.rows(mask), ids, logits.columns.start, self.log_softmax)
        answer, answers = _answers(task, mask)
        total = scores.new_zeros(answers).index_add(0, answer, scores.squeeze(-1))
        if self.length_penalty:
            count = torch.bincount(answer, minlength=answers).clamp(min=1).to(total.dtype)
            total = total / count**self.length_penalty
        return total.view(b, -1)


class PooledHead(nn.Module):
    """Linear, tanh, dropout, linear on the hidden state of one position, on every TP rank alike."""

    def __init__(self, head: HeadConfig, config: GLMConfig) -> None:
        super().__init__()
        self.pool, self.sequence_parallel = head.pool, config.sequence_parallel
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size, dtype=config.params_dtype)
        self.dropout = nn.Dropout(head.dropout)
        self.classifier = nn.Linear(config.hidden_size, head.num_classes, dtype=config.params_dtype)
        self._init = config.init_method
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws new weights."""
        for layer in (self.pooler, self.classifier):
            self._init(layer.weight)
            layer.bias.zero_()

    def forward(self, h_sbh: Tensor, logits: Logits, task: TaskBatch, sep: Tensor) -> Tensor:
        """Classifies.

        Args:
            h_sbh: output of the final layernorm, or this rank's slice of its positions.
            logits: unused: the language model's head does not run.
            task: its ``label [b]`` tells how many examples the sequences belong to.
            sep: ``[b]``, or ``[b * c]`` where the sequences are the choices.

        Returns:
            ``[b, c]``.
        """
        if self.pool == "cls":
            position = sep.new_zeros(h_sbh.shape[1])
        else:
            sep = _one_number(sep, f"pooled, pool={self.pool}")
            position = sep if self.pool == "start" else sep - 1
        pooled = torch.tanh(self.pooler(self._state_at(h_sbh, position)))
        classes: Tensor = self.classifier(self.dropout(pooled))
        return at_least_fp32(classes).view(task.label.shape[0], -1)

    def _state_at(self, h_sbh: Tensor, position: Tensor) -> Tensor:
        """``[b, h]``: the hidden state at one position of each sequence."""
        if not self.sequence_parallel:
            return h_sbh[position, torch.arange(len(position), device=position.device)]
        # one rank has it, the others add zeros: no need to gather the sequence
        local = position - tp_rank() * h_sbh.shape[0]
        here = _at(local, h_sbh.shape[0]).t().unsqueeze(-1)
        return all_sum(h_sbh.masked_fill(~here, 0.0).sum(0))


def _answers(task: TaskBatch, mask: Tensor) -> tuple[Tensor, int]:
    """Index of the answer, over the batch, of each true entry of ``mask``, and how many exist."""
    if task.choice_of is None:
        return mask.nonzero()[:, 0], mask.shape[0]
    assert task.choices is not None, "packed answers need their number"
    first = torch.arange(mask.shape[0], device=mask.device).unsqueeze(1) * task.choices
    return (first + task.choice_of)[mask], mask.shape[0] * task.choices


def _token_scores(rows: Tensor, ids: Tensor, first_column: int, log_softmax: bool) -> Tensor:
    """Logits, or log-probabilities, of tokens ``ids [n, k]`` in rows ``[n, V']``: ``[n, k]``."""
    rows = at_least_fp32(rows)
    scores = pick(rows, ids - first_column)
    return scores - log_partition(rows).unsqueeze(-1) if log_softmax else scores


def _at(position: Tensor, length: int) -> Tensor:
    """``[b, length]`` booleans, true at one position of each row."""
    return torch.arange(length, device=position.device) == position.unsqueeze(1)


def _one_number(sep: Tensor, head: str) -> Tensor:
    if sep.dim() != 1:
        raise ValueError(
            f"the head {head} reads a position off attention_mask, which must be [b] (sep); "
            f"this one is {tuple(sep.shape)}."
        )
    return sep
