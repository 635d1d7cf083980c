"""Autoregressive blank infilling: text -> context with blanks, followed by the blanked blocks.

GLM (arXiv:2103.10360), sections 2.1-2.3. A sample holds the context (each blank one mask token) and
then, per block, a start token and the block's tokens; labels are the next tokens, ending with the
end token. Row 0 of the positions is the place in the text (a block has the place of its mask), row
1 counts 1..m inside a block and is 0 in the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from glmkd_nemo.data.block_layout import BlockLayout, Sample
from glmkd_nemo.data.config import BlockInfillingConfig, as_config
from glmkd_nemo.data.span_sampling import (
    Ids,
    Span,
    SpanLengths,
    choose_sentences,
    sentence_spans,
    shorten,
    spans_in_documents,
)
from glmkd_nemo.data.tokenizer import GLMTokenizer

_MIN_TOKENS = 4  # below this no objective has room for a blank and a context
_SHORTEST_TEXT = 32  # lower end of the lengths drawn by `short_seq_prob`
_ATTEMPTS = 50


class BlockInfilling:
    """Draws samples from windows of text.

    Args:
        config: `BlockInfillingConfig` or a mapping with its keys.
        tokenizer: gives command tokens and sentence ends.
        max_tokens: longest window; bounds random positions and short texts, and is the place of
            every block where sentinels are used (so positions need `max_tokens + 1` entries).

    Raises:
        ValueError: the tokenizer lacks a command token that an option needs.
    """

    def __init__(self, config: Any, tokenizer: GLMTokenizer, max_tokens: int) -> None:
        self.config = cfg = as_config(BlockInfillingConfig, config)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.lengths = SpanLengths(cfg.avg_block_length, cfg.max_block_length)
        self._layout = BlockLayout(cfg, tokenizer, max_tokens)
        self._ends_sentence = tokenizer.sentence_ends

    def sample(self, tokens: npt.ArrayLike, rng: Random, longest: int | None = None) -> Sample:
        """One sample of a window; a draw that fails or is too long is made again.

        Args:
            tokens: [n] ids that begin with the start token (ENC).
            rng: every draw comes from it.
            longest: most positions the sample may have; None: any.

        Returns:
            input_ids, labels, loss_mask [m] int64; position_ids [2, m] int64; attention_mask (int,
            the context's length); mode ("bert", "sentence" or "gpt").

        Raises:
            ValueError: no draw worked (the text is too short, or `longest` too small).
        """
        for _ in range(_ATTEMPTS):
            made = self.construct([tokens], rng)
            if made and (longest is None or len(made[0]["input_ids"]) <= longest):
                return made[0]
        raise ValueError(
            f"no blank-infilling sample of at most {longest} positions came out of "
            f"{len(np.asarray(tokens))} tokens in {_ATTEMPTS} draws"
        )

    def construct(
        self, texts: Sequence[npt.ArrayLike], rng: Random, noise_rng: Random | None = None
    ) -> list[Sample]:
        """Samples of several windows with one objective, drawn in the reference's order.

        Args:
            texts: windows, each [n] and beginning with the start token.
            rng: source of all draws, but for
            noise_rng: source of the [dBLOCK] draws; None: `rng`.

        Returns:
            At most one sample per text (failed draws are left out); more where texts are cut short.
        """
        cfg = self.config
        windows = [np.asarray(text, dtype=np.int64) for text in texts]
        if rng.random() < cfg.short_seq_prob:
            windows = self._short_texts(windows, rng)
        single = rng.random() < cfg.single_span_prob
        objective = 0.0 if single else rng.random()
        windows = [window for window in windows if len(window) >= _MIN_TOKENS]
        noise = noise_rng or rng
        if objective < cfg.bert_prob or single:
            made = [self._short_spans(window, single, rng, noise) for window in windows]
        elif objective < cfg.bert_prob + cfg.gap_sentence_prob:
            made = [self._sentences(window, rng, noise) for window in windows]
        else:
            made = self._long_spans(windows, rng, noise)
        return [sample for sample in made if sample is not None]

    def _short_texts(self, windows: list[Ids], rng: Random) -> list[Ids]:
        """Cuts windows to one random length, as many pieces of each as a full window holds."""
        longest = self.max_tokens - 1
        if longest <= _SHORTEST_TEXT:
            return windows
        target = rng.randrange(_SHORTEST_TEXT, longest)
        start = np.array([self.tokenizer.cls_id], dtype=np.int64)
        eos = self.tokenizer.eos_id
        return [
            np.concatenate((start, shorten(window[1:], target, self._ends_sentence, eos, rng)))
            for window in windows
            for _ in range(longest // target)
        ]

    def _spans(self, tokens: Ids, lengths: list[int], rng: Random) -> list[Span] | None:
        rng.shuffle(lengths)  # once more inside: the reference's draws, kept for equal samples
        ids = self.tokenizer.eos_id, self.tokenizer.cls_id
        return spans_in_documents(tokens, lengths, self.config.bert_ratio, *ids, rng)

    def _short_spans(self, tokens: Ids, single: bool, rng: Random, noise: Random) -> Sample | None:
        if single:
            lengths = [self.lengths.draw(rng)]
        else:
            lengths = self.lengths.draw_until(int(self.config.bert_ratio * len(tokens)), rng)
        spans = self._spans(tokens, lengths, rng)
        if not spans:
            return None
        if self.config.masked_lm:
            return self._layout.masked(tokens, spans)
        return self._layout.blocks(tokens, spans, "bert", rng, noise)

    def _sentences(self, tokens: Ids, rng: Random, noise: Random) -> Sample | None:
        ids = self.tokenizer.eos_id, self.tokenizer.cls_id
        sentences = sentence_spans(tokens, self._ends_sentence, *ids)
        if not sentences:
            return None
        least = int(self.config.gap_sentence_ratio * len(tokens))
        return self._layout.blocks(
            tokens, choose_sentences(sentences, least, rng), "sentence", rng, noise
        )

    def _long_spans(self, windows: list[Ids], rng: Random, noise: Random) -> list[Sample | None]:
        if not windows:
            return []
        sizes = [len(window) for window in windows]
        drawn = rng.randint(int(self.config.gpt_min_ratio * min(sizes)), max(sizes) - 2)
        made: list[Sample | None] = []
        for tokens in windows:
            length = max(1, min(drawn, len(tokens) - 2))
            several = bool((tokens[:-1] == self.tokenizer.eos_id).any())
            if several or rng.random() < self.config.gpt_infill_prob:
                made.append(self._layout.continuation(tokens, length))
            else:
                spans = self._spans(tokens, [length], rng)
                made.append(
                    self._layout.blocks(tokens, spans, "gpt", rng, noise) if spans else None
                )
        return made


def pad(sample: Sample, seq_length: int, pad_id: int) -> dict[str, Any]:
    """A sample as one row of a batch.

    Args:
        sample: of `BlockInfilling.sample`, at most `seq_length` long.
        seq_length: s.
        pad_id: fills input_ids. Labels are filled with 0 and positions with 0: the distillation
            losses recognise padding by these (reference).

    Returns:
        input_ids, labels [s] int64, loss_mask [s] float32, position_ids [2, s] int64,
        attention_mask [] int64 (the context's length).
    """
    size = len(sample["input_ids"])
    assert size <= seq_length, f"sample of {size} positions in rows of {seq_length}"
    inputs = np.full(seq_length, pad_id, dtype=np.int64)
    labels = np.zeros(seq_length, dtype=np.int64)
    loss_mask = np.zeros(seq_length, dtype=np.float32)
    positions = np.zeros((2, seq_length), dtype=np.int64)
    inputs[:size] = sample["input_ids"]
    labels[:size] = sample["labels"]
    loss_mask[:size] = sample["loss_mask"]
    positions[:, :size] = sample["position_ids"]
    return {
        "input_ids": inputs,
        "position_ids": positions,
        "attention_mask": np.array(sample["attention_mask"], dtype=np.int64),
        "labels": labels,
        "loss_mask": loss_mask,
    }
