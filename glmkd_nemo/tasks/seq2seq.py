"""Sequence-to-sequence tasks: trained on target tokens, evaluated by what is generated."""

from __future__ import annotations

import functools
import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glmkd_nemo.data.seq2seq import BlankFillingConfig, Blanks, Pairs, Seq2SeqConfig
from glmkd_nemo.data.tokenizer import GLMTokenizer
from glmkd_nemo.generation import Generation, GenerationConfig
from glmkd_nemo.metrics.generation import bleu, exact, rouge
from glmkd_nemo.tasks.task import NATS, RIGHT, TOKENS, Scores, Task


class GenerationTask(Task):
    """A token task whose targets are also generated.

    While training, `metrics` says how well target tokens are predicted; what papers report is
    `generation_metrics` of the texts generated for `generation_prompts`.

    Args:
        cfg: options.
        tokenizer: of the model.

    Attributes:
        generation: how a target is generated.

    Raises:
        ValueError: options of generation that do not go together.
    """

    main_metric = "ppl"
    lower_is_better = True

    def __init__(self, cfg: Seq2SeqConfig, tokenizer: GLMTokenizer) -> None:
        self.name, self.cfg, self.tokenizer = cfg.name, cfg, tokenizer
        self.positions = max(cfg.max_src_length, cfg.max_tgt_length)
        self.generation = GenerationConfig(
            max_new_tokens=cfg.max_tgt_length,
            min_new_tokens=cfg.min_tgt_length,
            num_beams=cfg.num_beams,
            length_penalty=cfg.length_penalty,
            no_repeat_ngram_size=cfg.no_repeat_ngram_size,
        )
        self._read = functools.cache(self._build)

    @abstractmethod
    def _build(self, split: str) -> Pairs | Blanks:
        """Reads a split."""

    def dataset(self, split: str) -> Pairs | Blanks:
        """One item per text; see :class:`Pairs` and :class:`Blanks` for errors."""
        return self._read(split)

    def metrics(self, split: str, scores: Scores) -> dict[str, float]:
        """``ppl``, ``nats_per_token`` and ``accuracy`` of target tokens, end tokens among them."""
        sums = np.sum(np.asarray(scores, dtype=np.float64), axis=0)
        nats = float(sums[NATS] / sums[TOKENS])
        return {
            "ppl": math.exp(nats) if nats < 700 else math.inf,
            "nats_per_token": nats,
            "accuracy": float(sums[RIGHT] / sums[TOKENS]),
        }

    def generation_prompts(self, split: str) -> list[list[int]]:
        """Contexts with their masks, as ids, one per item."""
        dataset = self.dataset(split)
        return [dataset.prompt(i) for i in range(len(dataset))]

    def references(self, split: str) -> list[str]:
        """What should be generated, in the tokenizer's spelling, as predictions are."""
        encode, decode = self.tokenizer.encode, self.tokenizer.decode
        return [decode(encode(f" {pair.target}")).strip() for pair in self.dataset(split).pairs]

    def prediction(self, generation: Generation) -> str:
        """What is compared with a reference."""
        return generation.text

    @abstractmethod
    def generation_metrics(self, split: str, predictions: Sequence[str]) -> dict[str, float]:
        """Metrics of the texts generated for prompts of a split: all, or the first ones."""

    def write_generations(self, split: str, predictions: Sequence[str], folder: Path) -> Path:
        """``NAME-SPLIT.generated.jsonl``: source, prediction and reference of each item."""
        rows = zip(self.dataset(split).pairs, predictions, self.references(split), strict=False)
        lines = (
            json.dumps(
                {"source": pair.source, "prediction": prediction, "reference": reference},
                ensure_ascii=False,
            )
            for pair, prediction, reference in rows
        )
        file = folder / f"{self.name}-{split}.generated.jsonl"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    def _rouge(self, split: str, predictions: Sequence[str]) -> dict[str, float]:
        cfg = self.cfg
        options = cfg.rouge_min_words, cfg.rouge_duplicate_rate
        return rouge(predictions, self.references(split)[: len(predictions)], *options)


class SummaryTask(GenerationTask):
    """CNN/DailyMail, XSum, Gigaword: ``rouge1``, ``rouge2``, ``rougeL``."""

    Config = Seq2SeqConfig

    def _build(self, split: str) -> Pairs:
        return Pairs(self.cfg, split, self.tokenizer)

    def generation_metrics(self, split: str, predictions: Sequence[str]) -> dict[str, float]:
        """ROUGE-1, ROUGE-2 and ROUGE-L."""
        return self._rouge(split, predictions)


class QuestionTask(SummaryTask):
    """SQuAD: the question to a paragraph and an answer; ``bleu`` and ROUGE."""

    def generation_metrics(self, split: str, predictions: Sequence[str]) -> dict[str, float]:
        """BLEU and ROUGE."""
        return {
            "bleu": bleu(predictions, self.references(split)),
            **self._rouge(split, predictions),
        }


class BlankFillingTask(GenerationTask):
    """Sentences with blanked words: ``bleu`` of the filled ones, and how many are ``exact``."""

    Config = BlankFillingConfig

    def __init__(self, cfg: BlankFillingConfig, tokenizer: GLMTokenizer) -> None:
        super().__init__(cfg, tokenizer)
        self._blanks = cfg

    def _build(self, split: str) -> Blanks:
        return Blanks(self._blanks, split, self.tokenizer)

    def prediction(self, generation: Generation) -> str:
        """The sentence with its blanks filled."""
        return generation.filled

    def generation_metrics(self, split: str, predictions: Sequence[str]) -> dict[str, float]:
        """BLEU of sentences, and the share of those with the words of the original."""
        references = self.references(split)[: len(predictions)]
        return {"bleu": bleu(predictions, references), "exact": exact(predictions, references)}
