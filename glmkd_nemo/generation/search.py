"""Greedy search, beam search and drawing, by ``generate`` of the library transformers.

To transformers the model is one whose texts begin with the start token of a blank: the context is
not a part of them. Thus all rows of a batch are equally long, n-grams and lengths are those of the
blank, and padding is no concern of the search.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import CausalLMOutput

from glmkd_nemo.generation.config import GenerationConfig
from glmkd_nemo.generation.next_token import KeyValueCache, cached_step, whole_step
from glmkd_nemo.generation.prompt import Prefixes
from glmkd_nemo.models.glm import GLMModel


class Search(PreTrainedModel, GenerationMixin):
    """What ``generate`` of transformers sees of a GLM and a batch of prefixes.

    Args:
        model: all of it; tensor-parallel ranks search alike, on equal logits.
        prefixes: one row per prompt.
        config: of the search.
        end_ids: tokens that end a blank.
        pad_id: fills rows that have ended.
    """

    def __init__(
        self,
        model: GLMModel,
        prefixes: Prefixes,
        config: GenerationConfig,
        end_ids: list[int],
        pad_id: int,
    ) -> None:
        super().__init__(PreTrainedConfig(vocab_size=model.config.vocab_size))
        self.glm, self.how, self.end_ids, self.pad_id = model, config, end_ids, pad_id
        self.count = len(prefixes.ids)
        self.prefixes = prefixes.repeated(config.num_beams)
        self.cache: KeyValueCache | None = None
        if config.use_cache and can_cache(model):
            self.cache = KeyValueCache(model, prefixes, config.num_beams, config.max_new_tokens)
        self.last_logits = torch.empty(0)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: KeyValueCache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Hands over all ids: :meth:`forward` knows which of them are cached."""
        return {"input_ids": input_ids}

    def forward(self, input_ids: Tensor, return_dict: bool = True) -> CausalLMOutput:
        """Logits ``[n, 1, V]`` after ``input_ids [n, t]``, a start token and ``t - 1`` others."""
        if self.cache is None:
            logits = whole_step(self.glm, self.prefixes, input_ids)
        else:
            logits = cached_step(self.glm, self.prefixes, self.cache, input_ids)
        self.last_logits = logits
        return CausalLMOutput(logits=logits.unsqueeze(1))

    def run(self, start_id: int, seeds: list[int]) -> tuple[list[list[int]], list[float]]:
        """Fills the next blank of every prompt.

        Args:
            start_id: of the token that begins a blank.
            seeds: of each prompt's draws.

        Returns:
            By prompt the tokens without start and end, and the score: log probability in nats of
            these and of the end token, over their number to the power of ``length_penalty``.
        """
        scores = _Scores(self)
        ids = torch.full((self.count, 1), start_id, device=self.prefixes.ids.device)
        cached = {} if self.cache is None else {"past_key_values": self.cache}
        out = self.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=self.how.for_transformers(self.end_ids, self.pad_id, bool(cached)),
            logits_processor=drawing(self.how, seeds),
            stopping_criteria=StoppingCriteriaList([scores] if self.how.num_beams == 1 else []),
            **cached,
        )
        spans = [_until_end(row, self.end_ids) for row in out.sequences[:, 1:].tolist()]
        if self.how.num_beams > 1:
            return spans, out.sequences_scores.tolist()
        return spans, scores.result(self.how.length_penalty)


def can_cache(model: GLMModel) -> bool:
    """Whether keys and values can be kept.

    Not where a word's embedding depends on the words beside it (MobileBERT's trigram).
    """
    return model.config.bottleneck_word_embedding is None


def _until_end(row: list[int], end_ids: list[int]) -> list[int]:
    ends = (i for i, token in enumerate(row) if token in end_ids)
    return row[: next(ends, len(row))]


class _Scores(StoppingCriteria):
    """Adds up log probabilities of chosen tokens; it never stops anything."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.total = torch.zeros(search.count, dtype=torch.float64)
        self.length = torch.zeros(search.count)
        self.running = torch.ones(search.count, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        chosen = input_ids[:, -1:]
        log_probs = F.log_softmax(self.search.last_logits.float(), -1).gather(1, chosen)
        self.total += log_probs[:, 0].cpu() * self.running
        self.length += self.running
        self.running &= ~torch.isin(chosen[:, 0].cpu(), torch.tensor(self.search.end_ids))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def result(self, length_penalty: float) -> list[float]:
        found: list[float] = (self.total / self.length**length_penalty).tolist()
        return found


def drawing(config: GenerationConfig, seeds: list[int]) -> LogitsProcessorList:
    """What turns the most likely token into a drawn one; nothing without ``do_sample``."""
    steps: list[LogitsProcessor] = []
    if not config.do_sample:
        return LogitsProcessorList(steps)
    if config.temperature != 1.0:
        steps.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        steps.append(TopKLogitsWarper(config.top_k))
    if config.top_p < 1.0:
        steps.append(TopPLogitsWarper(config.top_p))
    return LogitsProcessorList([*steps, _GumbelNoise(seeds)])


class _GumbelNoise(LogitsProcessor):
    """Makes the largest of the logits a draw from their softmax (Gumbel-max, arXiv 1411.0030).

    Each row has a generator of its own, so that a prompt's draws do not depend on what else is in
    the batch, and are the same on all ranks.

    Args:
        seeds: one per row.
    """

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        size = scores.shape[1]
        noise = [-torch.empty(size).exponential_(generator=g).log() for g in self.generators]
        return scores + torch.stack(noise).to(scores.device)
