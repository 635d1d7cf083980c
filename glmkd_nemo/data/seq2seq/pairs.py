"""Items of summaries and questions: a context of fixed length, and the target in its blank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.data.answers import Answer, Item, lay_out, rounded
from glmkd_nemo.data.seq2seq import clean
from glmkd_nemo.data.seq2seq.config import Seq2SeqConfig
from glmkd_nemo.data.seq2seq.readers import (
    Pair,
    Row,
    read_lines_of,
    read_squad,
    read_xsum,
    usable,
)
from glmkd_nemo.data.tokenizer import GLMTokenizer

Read = Callable[[Path, str], list[Row]]
READERS: dict[str, Read] = {
    "cnn_dm": lambda folder, split: read_lines_of(folder, split, clean.cnn_dm),
    "cnn_dm_original": lambda folder, split: read_lines_of(folder, split, lambda text, _: text),
    "gigaword": lambda folder, split: read_lines_of(folder, split, clean.gigaword),
    "xsum": read_xsum,
    "squad_qg": read_squad,
}


class Pairs(Sequence[Item]):
    """Items of a split.

    Contexts are padded inside, so that the model sees the padding, and targets behind their end
    token, positions going on: as the reference trains.

    Args:
        cfg: options; `cfg.name` is one of `READERS`.
        split: "train", "valid" or "test".
        tokenizer: of the model.

    Attributes:
        pairs: the texts, one per item.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an unknown name, or rows that cannot be used, by file and line.
    """

    def __init__(self, cfg: Seq2SeqConfig, split: str, tokenizer: GLMTokenizer) -> None:
        if cfg.name not in READERS:
            raise ValueError(f"no task {cfg.name!r} of pairs of texts{nearest(cfg.name, READERS)}")
        self._cfg = cfg
        self._tokenizer = tokenizer
        self._mask = tokenizer.command_token("sMASK" if cfg.task_mask else "MASK")
        self._masks = {tokenizer.mask_id, tokenizer.gmask_id, tokenizer.smask_id}
        self.pairs = usable(READERS[cfg.name](cfg.folder(), split), cfg.max_bad_rows)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """One pair: [max_src_length + max_tgt_length, rounded up]."""
        cfg, tokenizer = self._cfg, self._tokenizer
        context = self.prompt(index)
        target = [*self._encode(f" {self.pairs[index].target}"), tokenizer.eop_id]
        target = target[: cfg.max_tgt_length]
        rest = cfg.max_tgt_length - len(target)
        labels = [*target, *[tokenizer.pad_id] * rest]
        answer = Answer(context.index(self._mask), labels, [1] * len(target) + [0] * rest)
        length = rounded(cfg.max_src_length + cfg.max_tgt_length)
        return lay_out(context, [answer], tokenizer, length)

    def prompt(self, index: int) -> list[int]:
        """The context of an item: [max_src_length] ids, one of them the mask."""
        pair = self.pairs[index]
        context = self._question(pair) if pair.answer else self._summary(pair)
        return context + [self._tokenizer.pad_id] * (self._cfg.max_src_length - len(context))

    def _summary(self, pair: Pair) -> list[int]:
        prompt = [self._tokenizer.cls_id, self._mask, *self._encode(" Content:")]
        return [*prompt, *self._encode(f" {pair.source}")][: self._cfg.max_src_length]

    def _question(self, pair: Pair) -> list[int]:
        """Paragraph, mask, answer; of a long paragraph, the part around the answer."""
        source = self._encode(f"{pair.source.rstrip()} Question:")
        answer = self._encode(f" Answer: {pair.answer}")
        room = self._cfg.max_src_length - len(answer) - 2
        if room <= 0:
            raise ValueError(
                f"the answer {pair.answer!r} has {len(answer)} tokens: too many for "
                f"task.max_src_length={self._cfg.max_src_length}"
            )
        if len(source) > room:
            found = _find(source, self._encode(f" {pair.answer}"))
            start = max(found - room // 2, 0)
            source = source[start : start + room]
        return [self._tokenizer.cls_id, *source, self._mask, *answer]

    def _encode(self, text: str) -> list[int]:
        """Ids of a text; a mask written in it is no blank of ours."""
        ids = self._tokenizer.encode(text)
        return [self._tokenizer.unk_id if i in self._masks else i for i in ids]


def _find(ids: Sequence[int], part: Sequence[int]) -> int:
    """Where `part` first begins in `ids`; 0 where it does not, as its tokens may differ there."""
    places = range(len(ids) - len(part) + 1)
    return next((i for i in places if ids[i : i + len(part)] == part), 0)
