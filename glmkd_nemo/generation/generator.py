"""Generation of text with a GLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from glmkd_nemo.generation.config import GenerationConfig
from glmkd_nemo.generation.next_token import decoding
from glmkd_nemo.generation.prompt import Prompt, batch_prefixes, read_prompt
from glmkd_nemo.models.glm import GLMModel


@dataclass(frozen=True)
class Generation:
    """What was generated for a prompt.

    Attributes:
        text: of all blanks, with a space between two.
        ids: the tokens of all blanks, without start and end tokens.
        score: sum over blanks of log probability (nats, end token included) over length to the
            power of ``length_penalty``.
        spans: the tokens by blank.
        filled: the prompt's text with its blanks filled.
    """

    text: str
    ids: list[int]
    score: float
    spans: list[list[int]]
    filled: str


class Generator:
    """Fills the blanks of prompts, one after the other, from left to right.

    Tensor- and pipeline-parallel ranks call it alike, and get the same results; data-parallel
    ranks may give prompts of their own.

    Args:
        model: this rank's pipeline stage, as it was built (not wrapped).
        tokenizer: vocabulary and command tokens.
        batch_size: prompts that are worked on at a time; results do not depend on it.
    """

    def __init__(self, model: GLMModel, tokenizer: Any, batch_size: int = 16) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        config: GenerationConfig | None = None,
        progress: Callable[[int], None] | None = None,
        first: int = 0,
    ) -> list[Generation]:
        """Generates for all prompts.

        Args:
            prompts: texts with [MASK], [gMASK] or [sMASK] for blanks; a text without any gets
                one at its end. Or ids of contexts: start and end tokens and masks as they are.
            config: how; greedy search if left out.
            progress: called with the number of prompts that are done.
            first: index of the first prompt, for draws and messages, of prompts given in parts.

        Returns:
            One per prompt, in their order.

        Raises:
            ValueError: a prompt that cannot be used, by index, or more tokens than the model has
                positions for.
        """
        config = config or GenerationConfig()
        longest = self.model.config.max_position_embeddings
        if config.max_new_tokens > longest:
            raise ValueError(
                f"max_new_tokens={config.max_new_tokens}, but the model has positions for "
                f"{longest} (max_position_embeddings): lower it."
            )
        rows = [
            read_prompt(prompt, self.tokenizer, longest, f"prompt {first + i}")
            for i, prompt in enumerate(prompts)
        ]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))  # little padding
        done = 0
        with torch.no_grad(), decoding(self.model):
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                self._fill([rows[i] for i in batch], [first + i for i in batch], config)
                done += len(batch)
                if progress is not None:
                    progress(done)
        return [self._result(row) for row in rows]

    def _fill(self, rows: list[Prompt], indices: list[int], config: GenerationConfig) -> None:
        """Fills all blanks of a batch: the first ones, then the second ones, and so on."""
        from glmkd_nemo.generation.search import Search

        tokenizer = self.tokenizer
        end_ids = sorted({tokenizer.eop_id, tokenizer.eos_id})
        device = next(self.model.parameters()).device
        for blank in range(max(len(row.blanks) for row in rows)):
            at = [i for i, row in enumerate(rows) if blank < len(row.blanks)]
            prefixes = batch_prefixes([rows[i] for i in at], tokenizer.pad_id, device)
            search = Search(self.model, prefixes, config, end_ids, tokenizer.pad_id)
            seeds = [_seed(config.seed, indices[i], blank) for i in at]
            spans, scores = search.run(tokenizer.sop_id, seeds)
            for i, span, score in zip(at, spans, scores, strict=True):
                rows[i].spans.append(span)
                rows[i].score += score

    def _result(self, row: Prompt) -> Generation:
        decode = self.tokenizer.decode
        frame = (self.tokenizer.cls_id, self.tokenizer.eos_id)
        whole = [token for token in row.filled() if token not in frame]
        return Generation(
            text=" ".join(decode(span).strip() for span in row.spans),
            ids=[token for span in row.spans for token in span],
            score=row.score,
            spans=row.spans,
            filled=decode(whole).strip(),
        )


def _seed(seed: int, index: int, blank: int) -> int:
    """A seed of its own for every blank of every prompt."""
    return int(np.random.SeedSequence([seed, index, blank]).generate_state(1, np.uint64)[0])
