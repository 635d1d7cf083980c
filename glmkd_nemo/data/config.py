"""Typed configuration of tokenizers, corpora and block infilling (defaults: the reference's)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

TOKENIZER_TYPES = ("bert", "gpt2", "sentencepiece", "huggingface")


@dataclass
class TokenizerConfig:
    """Which vocabulary is used and which GLM command tokens follow it.

    Attributes:
        type: one of `TOKENIZER_TYPES`.
        path: vocabulary file, folder with one, or (huggingface) a model name.
        task_mask: add [gMASK] and [sMASK].
        block_mask: add [dBLOCK]; needed by `block_mask_prob` and `context_mask_ratio`.
        fix_command_token: SentencePiece only: the corrected id layout of the Chinese checkpoints.
        sentinels: number of numbered mask/start pairs; number 0 is the plain [MASK] and sop.
        lower_case: WordPiece only: lower-case the text and strip accents (uncased vocabularies).
    """

    type: str = "bert"
    path: str | None = None
    task_mask: bool = False
    block_mask: bool = False
    fix_command_token: bool = False
    sentinels: int = 0
    lower_case: bool = True


@dataclass
class BlockInfillingConfig:
    """How a window of text becomes a blank-infilling sample (GLM, arXiv:2103.10360, section 2.1).

    Three objectives are mixed: short spans (probability `bert_prob`), whole sentences
    (`gap_sentence_prob`), one long span (the rest).

    Attributes:
        bert_prob: share of samples with short spans of Poisson length.
        gap_sentence_prob: share of samples whose blanks are whole sentences.
        gpt_infill_prob: in the long-span objective, the share of spans at the end of the text; the
            others lie anywhere in it. Windows of several documents always blank their end.
        gpt_min_ratio: shortest long span, as a share of the window.
        bert_ratio: share of the tokens blanked by short spans.
        gap_sentence_ratio: least share of the tokens blanked by sentences.
        avg_block_length: mean of the Poisson law that short spans are drawn from, in tokens.
        max_block_length: short spans are shorter than this.
        block_mask_prob: probability that a token *inside a block's input* becomes [dBLOCK].
        context_mask_ratio: share of the tokens, near blanks in the context, that become [dBLOCK].
        context_mask_range: how far from a blank `context_mask_ratio` reaches, in tokens.
        short_seq_prob: share of samples cut to a shorter text.
        single_span_prob: share of samples with exactly one short span.
        shuffle_blocks: blocks follow the context in random order (else in text order).
        block_position_encoding: number positions inside a block 1..n (else all 1).
        sentinel_token: numbered mask and start tokens in place of positions of the blank.
        encoder_decoder: T5-like targets: text order, only the last block ends with the end token.
        task_mask: [gMASK] for long spans and [sMASK] for sentences in place of [MASK].
        random_position: shift all positions by a random number that fits the window.
        masked_lm: BERT's objective: [MASK] in place, no blocks.
    """

    bert_prob: float = 0.5
    gap_sentence_prob: float = 0.0
    gpt_infill_prob: float = 0.5
    gpt_min_ratio: float = 0.5
    bert_ratio: float = 0.15
    gap_sentence_ratio: float = 0.15
    avg_block_length: float = 3
    max_block_length: int = 40
    block_mask_prob: float = 0.0
    context_mask_ratio: float = 0.0
    context_mask_range: int = 3
    short_seq_prob: float = 0.0
    single_span_prob: float = 0.0
    shuffle_blocks: bool = True
    block_position_encoding: bool = True
    sentinel_token: bool = False
    encoder_decoder: bool = False
    task_mask: bool = False
    random_position: bool = False
    masked_lm: bool = False

    def __post_init__(self) -> None:
        for name in _PROBABILITIES:
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"data.block_infilling.{name}={value} is not between 0 and 1")
        if self.bert_prob + self.gap_sentence_prob > 1.0 + 1e-9:
            raise ValueError(
                f"data.block_infilling: bert_prob={self.bert_prob} + gap_sentence_prob="
                f"{self.gap_sentence_prob} exceed 1; the rest is the share of long spans"
            )
        if self.avg_block_length <= 0 or self.max_block_length < 2:
            raise ValueError("data.block_infilling: avg_block_length > 0, max_block_length >= 2")


_PROBABILITIES = (
    "bert_prob",
    "gap_sentence_prob",
    "gpt_infill_prob",
    "gpt_min_ratio",
    "bert_ratio",
    "gap_sentence_ratio",
    "block_mask_prob",
    "context_mask_ratio",
    "short_seq_prob",
    "single_span_prob",
)


@dataclass
class DataConfig:
    """Corpora, split and loading.

    Attributes:
        prefixes: indexed corpora (path without .bin/.idx) or raw text files (.jsonl, .txt, .gz).
        weights: one share per prefix; null: by number of tokens.
        split: shares of train, validation and test documents, e.g. "949,50,1".
        valid_prefixes, test_prefixes: separate corpora; their share of `split` then goes to train.
        non_sentence_start: share of windows that may start in mid-sentence.
        sample_across_documents: fill a window with further documents when one is too short.
        window: tokens of text per sample; null: the most that fits `seq_length` with its blocks.
        cache_dir: where raw text files are tokenised to (once); required for raw text.
        text_key: key of the text in jsonl rows.
        max_bad_rows: malformed rows of raw text that are tolerated (each is named).
        num_workers: loader processes per rank.
    """

    prefixes: list[str] = field(default_factory=list)
    weights: list[float] | None = None
    split: str = "949,50,1"
    valid_prefixes: list[str] | None = None
    test_prefixes: list[str] | None = None
    non_sentence_start: float = 0.0
    sample_across_documents: bool = True
    window: int | None = None
    cache_dir: str | None = None
    text_key: str = "text"
    max_bad_rows: int = 1000
    num_workers: int = 0
    block_infilling: BlockInfillingConfig = field(default_factory=BlockInfillingConfig)


C = TypeVar("C", TokenizerConfig, BlockInfillingConfig, DataConfig)


def as_config(cls: type[C], cfg: Any) -> C:
    """Turns a dataclass, mapping or DictConfig into `cls`; unknown keys are refused.

    Raises:
        ValueError: a key that `cls` does not have, or a value of another type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(cfg, cls):
        return cfg
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), cfg if cfg is not None else {})
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ValueError(f"{cls.__name__}: {error}") from error
