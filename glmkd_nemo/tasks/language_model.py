"""LAMBADA and perplexity as tasks: token items, scored by the model's own probabilities."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from glmkd_nemo.data.language_model import (
    Lambada,
    LanguageModelConfig,
    PerplexityConfig,
    Windows,
)
from glmkd_nemo.data.tokenizer import GLMTokenizer
from glmkd_nemo.tasks.task import ALL_RIGHT, NATS, RIGHT, TOKENS, Scores, Task


class LambadaTask(Task):
    """Whether a model guesses the last word: all its tokens right, each after the true ones.

    Args:
        cfg: options.
        tokenizer: of the model.
    """

    Config = LanguageModelConfig
    main_metric = "accuracy"

    def __init__(self, cfg: LanguageModelConfig, tokenizer: GLMTokenizer) -> None:
        self.name, self.positions = cfg.name, cfg.seq_length
        self._read = functools.cache(lambda split: Lambada(cfg, split, tokenizer))

    def dataset(self, split: str) -> Lambada:
        """One item per passage; see :class:`Lambada` for errors."""
        return self._read(split)

    def metrics(self, split: str, scores: Scores) -> dict[str, float]:
        """``accuracy`` (share of words), ``ppl`` per word and ``bits_per_token``."""
        sums = _sums(scores, len(self.dataset(split)))
        words = len(scores)
        return {
            "accuracy": float(sums[ALL_RIGHT] / words),
            "ppl": _exp(sums[NATS] / words),
            "bits_per_token": float(sums[NATS] / sums[TOKENS] / math.log(2)),
        }

    def write_predictions(self, split: str, scores: Scores, folder: Path) -> list[Path]:
        """``lambada-SPLIT.jsonl``: line, word, whether it was right, its -log p in nats."""
        rows = [
            {
                "line": passage.line,
                "word": passage.word,
                "right": bool(score[ALL_RIGHT]),
                "nats": float(score[NATS]),
            }
            for passage, score in zip(self.dataset(split).passages, scores, strict=True)
        ]
        return [_write_jsonl(folder / f"{self.name}-{split}.jsonl", rows)]


class PerplexityTask(Task):
    """Perplexity of text, per token and per word of the text before detokenisation.

    Per word, models with different vocabularies can be compared:
    exp(sum of -log p / (words - documents)), a document's first word being given (as published, for
    one document; the first token alone is given where a word has several).

    Args:
        cfg: options.
        tokenizer: of the model.
    """

    Config = PerplexityConfig
    main_metric = "word_ppl"
    lower_is_better = True

    def __init__(self, cfg: PerplexityConfig, tokenizer: GLMTokenizer) -> None:
        self.name, self.positions = cfg.name, cfg.seq_length
        self._read = functools.cache(lambda split: Windows(cfg, split, tokenizer))

    def dataset(self, split: str) -> Windows:
        """One item per window; see :class:`Windows` for errors."""
        return self._read(split)

    def metrics(self, split: str, scores: Scores) -> dict[str, float]:
        """``word_ppl``, ``ppl`` per token, ``nats_per_token``, ``bits_per_token``, ``accuracy``."""
        windows = self.dataset(split)
        sums = _sums(scores, len(windows))
        nats = sums[NATS] / windows.predicted
        return {
            "word_ppl": _exp(sums[NATS] / max(windows.words - windows.documents, 1)),
            "ppl": _exp(nats),
            "nats_per_token": float(nats),
            "bits_per_token": float(nats / math.log(2)),
            "accuracy": float(sums[RIGHT] / windows.predicted),
        }

    def write_predictions(self, split: str, scores: Scores, folder: Path) -> list[Path]:
        """``NAME-SPLIT.jsonl``: of each window its tokens and their -log p in nats."""
        rows = [{"tokens": int(s[TOKENS]), "nats": float(s[NATS])} for s in scores]
        return [_write_jsonl(folder / f"{self.name}-{split}.jsonl", rows)]


def _sums(scores: Scores, items: int) -> np.ndarray:
    """Sums [4] over all items.

    Raises:
        ValueError: scores of some items only; a perplexity of them would be another text's.
    """
    if len(scores) != items:
        raise ValueError(f"scores of {len(scores)} items of {items}: all are needed")
    return np.sum(np.asarray(scores, dtype=np.float64), axis=0)


def _exp(nats: float) -> float:
    """Perplexity; infinite where it is too large for a number."""
    return math.exp(nats) if nats < 700 else math.inf


def _write_jsonl(file: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
