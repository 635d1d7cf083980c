"""Metrics of generated texts, as shares between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu import corpus_bleu

SENTENCE_END = "[SEP]"  # between sentences of a text
_ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rougeLsum"}


def rouge(
    predictions: Sequence[str],
    references: Sequence[str],
    min_words: int = 0,
    duplicate_rate: float = 1.0,
) -> dict[str, float]:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L of summaries (Lin, 2004), with Porter's stemmer.

    ROUGE ignores case and punctuation, so texts need not be joined as one would write them.

    Args:
        predictions, references: one text each per example; [SEP] ends a sentence.
        min_words: shorter sentences of predictions are left out.
        duplicate_rate: so are those of which a larger share of the words came before.

    Returns:
        ``rouge1``, ``rouge2``, ``rougeL``.

    Raises:
        ValueError: different numbers of texts, or none.
    """
    _paired(predictions, references)
    scorer = RougeScorer(list(_ROUGE.values()), tokenizer=DefaultTokenizer(use_stemmer=True))
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        kept = _kept(prediction.split(SENTENCE_END), min_words, duplicate_rate)
        scores = scorer.score("\n".join(reference.split(SENTENCE_END)), "\n".join(kept))
        rows.append([scores[name].fmeasure for name in _ROUGE.values()])
    return dict(zip(_ROUGE, np.mean(rows, axis=0).tolist(), strict=True))


def _kept(sentences: Sequence[str], min_words: int, duplicate_rate: float) -> list[str]:
    """Sentences that are long enough and say something new."""
    long = [sentence for sentence in sentences if len(sentence.split()) >= max(min_words, 1)]
    kept: list[str] = []
    before: set[str] = set()
    for sentence in long:
        words = set(sentence.lower().split())
        if len(words & before) <= duplicate_rate * len(words):
            kept.append(sentence)
        before |= words
    return kept


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """BLEU-4 of a whole corpus by sacrebleu (arXiv:1804.08771), one reference each.

    Raises:
        ValueError: different numbers of texts, or none.
    """
    _paired(predictions, references)
    return float(corpus_bleu(list(predictions), [list(references)]).score) / 100


def exact(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of texts that have the reference's words.

    Raises:
        ValueError: different numbers of texts, or none.
    """
    _paired(predictions, references)
    pairs = zip(predictions, references, strict=True)
    return float(np.mean([one.split() == two.split() for one, two in pairs]))


def _paired(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions of {len(references)} texts: all are needed"
        )
