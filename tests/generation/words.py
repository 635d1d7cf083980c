"""Models and a tokenizer of a few words, and searches written plainly, by whole forwards."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from glmkd_nemo.generation import GenerationConfig, Generator
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.vocab_map import Tables
from tests.models import tiny

COMMANDS = ["eos", "cls", "[MASK]", "sop", "eop", "[gMASK]"]


class Words:
    """Ids are places in a list of words: the commands above, then w6, w7, ..."""

    pad_id, eos_id, cls_id, mask_id, sop_id, eop_id, gmask_id = 0, 0, 1, 2, 3, 4, 5
    smask_id = None

    def __init__(self, vocab: int) -> None:
        self.words = COMMANDS + [f"w{i}" for i in range(len(COMMANDS), vocab)]

    def encode(self, text: str) -> list[int]:
        """Ids of words with spaces between them."""
        return [self.words.index(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        """The words."""
        return " ".join(self.words[i] for i in ids)


SIZES = {**tiny.SECTION, "num_layers": 2, "make_vocab_size_divisible_by": 4, "init_method_std": 0.5}
SIZES["transformer_engine"] = False


def model(vocab: int, seed: int = 3, **changes: Any) -> GLMModel:
    """A model with random weights."""
    tiny.reseed()
    torch.manual_seed(seed)
    return GLMModel(glm_config_from_cfg({**SIZES, **changes}, vocab))


def keep_some(glm: GLMModel, kept: int) -> None:
    """Fills a vocabulary map: commands and some words are kept, the others mean the last kept."""
    vocab = glm.config.vocab_size
    ids = torch.tensor([*range(len(COMMANDS)), *range(vocab - 1, 0, -2)])[:kept]
    rows = torch.full((vocab,), kept - 1)
    rows[ids] = torch.arange(kept)
    assert glm.vocab_map is not None
    glm.vocab_map.fill(Tables(ids, rows))


@torch.no_grad()
def log_probs(glm: GLMModel, ids: list[int], spans: list[list[int]], filling: list[int]) -> Tensor:
    """``[V]`` in fp64: of the token after ``filling``, the blanks before it being filled."""
    blanks = [i for i, token in enumerate(ids) if token in (Words.mask_id, Words.gmask_id)]
    row, positions, block = list(ids), list(range(len(ids))), [0] * len(ids)
    for blank, span in zip(blanks, [*spans, filling], strict=False):
        for count, token in enumerate([Words.sop_id, *span], 1):
            row, positions, block = [*row, token], [*positions, blank], [*block, count]
    logits = glm.eval()(
        torch.tensor([row]), torch.tensor([[positions, block]]), torch.tensor([len(ids)])
    )
    return logits[0, -1].double().log_softmax(-1)


def greedy(glm: GLMModel, ids: list[int], most: int) -> tuple[list[list[int]], float]:
    """Every blank's most likely tokens, one after the other, and the score."""
    spans: list[list[int]] = []
    score = 0.0
    for _ in [i for i in ids if i in (Words.mask_id, Words.gmask_id)]:
        span: list[int] = []
        total, steps = 0.0, 0
        while steps < most:
            scores = log_probs(glm, ids, spans, span)
            token = int(scores.argmax())
            total, steps = total + float(scores[token]), steps + 1
            if token in (Words.eos_id, Words.eop_id):
                break
            span.append(token)
        spans.append(span)
        score += total / steps
    return spans, score


def best(
    glm: GLMModel, ids: list[int], most: int, length_penalty: float
) -> list[tuple[float, list[int]]]:
    """All fillings of one blank with at most ``most`` tokens, the best one first."""
    ends = (Words.eos_id, Words.eop_id)
    words = [i for i in range(glm.config.vocab_size) if i not in ends]
    found = []
    for size in range(most):
        for span in map(list, itertools.product(words, repeat=size)):
            total = sum(float(log_probs(glm, ids, [], span[:i])[t]) for i, t in enumerate(span))
            after = log_probs(glm, ids, [], span)
            tokens = range(glm.config.vocab_size) if size == most - 1 else ends
            for token in tokens:
                whole = span if token in ends else [*span, token]
                score = (total + float(after[token])) / (size + 1) ** length_penalty
                found.append((score, whole))
    return sorted(found, reverse=True)


PROMPTS = ["w7 w8 [MASK] w9", "w6 w7 w10 w7 [MASK] w8 w8 [MASK]", "w11"]
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "canonical beams": {"num_beams": 4, "early_stopping": "never", "length_penalty": 0.0},
    "stopping early": {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
    "no bigram twice": {"num_beams": 2, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    "drawn": {"do_sample": True, "temperature": 1.5},
    "drawn from few": {"do_sample": True, "top_k": 9, "top_p": 0.9},
}


def results(
    glm: GLMModel, names: Collection[str] = SEARCHES, batch_size: int = 16, **changes: Any
) -> dict[str, list[Any]]:
    """By search: for each prompt the tokens of its blanks, and the score."""
    generator = Generator(glm, Words(glm.config.vocab_size), batch_size)
    found: dict[str, list[Any]] = {}
    for name in names:
        config = GenerationConfig(max_new_tokens=7, **SEARCHES[name], **changes)
        rows = generator.generate(PROMPTS, config)
        found[name] = [(row.spans, round(row.score, 4)) for row in rows]
    return found
