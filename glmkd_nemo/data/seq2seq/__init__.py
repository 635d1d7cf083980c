"""Sequence to sequence: summaries, questions of answers, blanks in sentences."""

from glmkd_nemo.data.seq2seq.blanks import Blanks
from glmkd_nemo.data.seq2seq.config import BlankFillingConfig, Seq2SeqConfig
from glmkd_nemo.data.seq2seq.pairs import Pairs

__all__ = ["BlankFillingConfig", "Blanks", "Pairs", "Seq2SeqConfig"]
