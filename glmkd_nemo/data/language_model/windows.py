"""Overlapping windows of text: each token but a document's first is predicted exactly once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from glmkd_nemo.data.answers import Answer, Item, lay_out, rounded
from glmkd_nemo.data.language_model.config import PerplexityConfig
from glmkd_nemo.data.language_model.detokenizers import DETOKENIZERS
from glmkd_nemo.data.text_files import bad_line, read_documents
from glmkd_nemo.data.tokenizer import GLMTokenizer


class Windows(Sequence[Item]):
    """Items of the windows of a file's documents, in text order.

    A window holds `seq_length - 1` tokens of one document; the next begins `stride` tokens later.
    Left to right, a window's first token is context and the others follow it, of which only those
    that no earlier window held are counted. Otherwise all tokens that an earlier window held are
    context, seen in both directions. (The reference, with its single first token as context, never
    counts the first tokens of windows that do not overlap; here they are counted.)

    Args:
        cfg: options.
        split: "train", "valid" or "test".
        tokenizer: of the model.

    Attributes:
        documents: number of documents.
        words: their words before detokenisation, split at single spaces (as in published numbers).
        tokens: their tokens.
        predicted: how many of these are predicted, over all windows.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: empty, not UTF-8, a row without text, or no document of two tokens: by line.
    """

    def __init__(self, cfg: PerplexityConfig, split: str, tokenizer: GLMTokenizer) -> None:
        self._cfg = cfg
        self._tokenizer = tokenizer
        self._mask = tokenizer.command_token("gMASK" if cfg.task_mask else "MASK")
        self._size = cfg.seq_length - 1
        file = cfg.file(split)
        detokenize = DETOKENIZERS[cfg.detokenizer]
        self._ids: list[list[int]] = []
        self.words = 0
        for _, text in read_documents(file, cfg.document_by, cfg.text_key):
            ids = tokenizer.encode(detokenize(text))
            if len(ids) > 1:  # a single token has nothing before it, so nothing is predicted
                self._ids.append(ids)
                self.words += len(text.strip().split(" "))
        if not self._ids:
            raise bad_line(file, 1, "no document of at least two tokens")
        self.documents = len(self._ids)
        self.tokens = sum(map(len, self._ids))
        self.predicted = self.tokens - self.documents
        # windows of each document: one, and one for every stride that reaches past it
        beyond = (max(len(ids) - self._size, 0) for ids in self._ids)
        self._ends = list(accumulate(-(-n // cfg.stride) + 1 for n in beyond))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """One window: [seq_length + 1, rounded up]."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        document = bisect_right(self._ends, index)
        number = index - (self._ends[document - 1] if document else 0)
        start = number * self._cfg.stride
        tokens = self._ids[document][start : start + self._size]
        seen = self._size - self._cfg.stride if number else 1  # tokens of an earlier window
        given = min(seen, 1) if self._cfg.unidirectional else seen
        context = [self._tokenizer.cls_id, *tokens[:given], self._mask]
        loss = [0] * (seen - given) + [1] * (len(tokens) - seen)
        answer = Answer(len(context) - 1, tokens[given:], loss)
        length = rounded(self._size + 2)  # start token, mask and start of the answer; shifted by 1
        blocks = self._cfg.block_position_encoding
        return lay_out(context, [answer], self._tokenizer, length, blocks)
