"""LAMBADA (arXiv:1606.06031): the last word of a passage, in a blank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glmkd_nemo.data.answers import Answer, Item, lay_out, rounded
from glmkd_nemo.data.language_model.config import LanguageModelConfig
from glmkd_nemo.data.language_model.detokenizers import DETOKENIZERS
from glmkd_nemo.data.text_files import bad_line, read_documents
from glmkd_nemo.data.tokenizer import GLMTokenizer


@dataclass(frozen=True)
class Passage:
    """A passage without its last word.

    Attributes:
        line: in its file, from 1.
        text: what comes before the word.
        word: the last one, with what stands directly beside it.
        ids: of `text`.
        answer: ids of the word, as one that follows a space.
    """

    line: int
    text: str
    word: str
    ids: list[int]
    answer: list[int]


class Lambada(Sequence[Item]):
    """Items of a file's passages; loss on the last word only.

    The context ends with mask and end-of-text token. Left to right, the passage's first token is
    context and the others lead up to the word. A passage that is too long loses its beginning (the
    reference may lose the mask instead, left to right).

    Args:
        cfg: options.
        split: "train", "valid" or "test".
        tokenizer: of the model.

    Attributes:
        passages: one per item.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: empty, not UTF-8, a row without text, or a last word without tokens or longer
            than the sequence: by file and line.
    """

    def __init__(self, cfg: LanguageModelConfig, split: str, tokenizer: GLMTokenizer) -> None:
        self._cfg = cfg
        self._tokenizer = tokenizer
        self._mask = tokenizer.command_token("gMASK" if cfg.task_mask else "MASK")
        file = cfg.file(split)
        rows = read_documents(file, "line", cfg.text_key)
        self.passages = [self._passage(file, line, text) for line, text in rows]

    def _passage(self, file: Path, line: int, text: str) -> Passage:
        text = DETOKENIZERS[self._cfg.detokenizer](text)
        word = text.split()[-1]
        before = text[: text.rfind(word)].strip()
        answer = self._tokenizer.encode(f" {word}")
        if not answer:
            raise bad_line(file, line, f"the last word {word!r} has no token")
        if self._room(answer) < 0:
            raise bad_line(
                file,
                line,
                f"the last word {word!r} is longer than seq_length={self._cfg.seq_length}",
            )
        return Passage(line, before, word, self._tokenizer.encode(before), answer)

    def _room(self, answer: list[int]) -> int:
        """Tokens of the passage that fit beside the answer and three command tokens."""
        return self._cfg.seq_length - len(answer) - 3

    def __len__(self) -> int:
        return len(self.passages)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """One passage: [seq_length, rounded up]."""
        passage, cfg = self.passages[index], self._cfg
        before = passage.ids[max(len(passage.ids) - self._room(passage.answer), 0) :]
        given = before[:1] if cfg.unidirectional else before
        context = [self._tokenizer.cls_id, *given, self._mask, self._tokenizer.eos_id]
        lead = before[len(given) :]
        loss = [0] * len(lead) + [1] * len(passage.answer)
        answer = Answer(len(given) + 1, [*lead, *passage.answer], loss)
        length = rounded(cfg.seq_length)
        return lay_out(context, [answer], self._tokenizer, length, cfg.block_position_encoding)
