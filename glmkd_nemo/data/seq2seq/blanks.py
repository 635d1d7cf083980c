"""Items of blank filling: a sentence with blanked words, each blank predicted in its order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from glmkd_nemo.data.answers import Answer, Item, lay_out, rounded
from glmkd_nemo.data.seq2seq import clean
from glmkd_nemo.data.seq2seq.config import BlankFillingConfig
from glmkd_nemo.data.seq2seq.readers import Pair, Row, parallel_lines, usable
from glmkd_nemo.data.text_files import bad_line, read_lines
from glmkd_nemo.data.tokenizer import GLMTokenizer

MASK = "[MASK]"


class Blanks(Sequence[Item]):
    """Items of a split. Words of training and validation are blanked by chance, always the same.

    (The reference blanks anew in each epoch, and none of a text too short for one by its ratio; it
    looks for [gMASK] with task masks, which its texts do not have: here it is [MASK] always.)

    Args:
        cfg: options.
        split: "train", "valid" or "test".
        tokenizer: of the model.

    Attributes:
        pairs: sentences with blanks and whole ones, one pair per item.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: rows that cannot be used, by file and line.
    """

    def __init__(self, cfg: BlankFillingConfig, split: str, tokenizer: GLMTokenizer) -> None:
        self._cfg = cfg
        self._tokenizer = tokenizer
        folder = cfg.folder()
        rows = _given(folder, cfg) if split == "test" else _drawn(folder / f"{split}.txt", cfg)
        self.pairs = usable(rows, cfg.max_bad_rows)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """One sentence: [max_src_length * (1 + mask_ratio), rounded up]."""
        cfg, tokenizer = self._cfg, self._tokenizer
        pair, context = self.pairs[index], self.prompt(index)
        fillings = fill(pair.source.split(), pair.target.split())
        assert fillings is not None, "checked when the pair was read"
        places = [i for i, token in enumerate(context) if token == tokenizer.mask_id]
        answers = [  # blanks that were cut off with the end of a long sentence have no place
            Answer(place, [*tokenizer.encode(f" {' '.join(words)}"), tokenizer.eop_id])
            for place, words in zip(places, fillings, strict=False)
        ]
        length = cfg.max_src_length + int(cfg.max_src_length * cfg.mask_ratio)
        return lay_out(context, answers, tokenizer, rounded(length))

    def prompt(self, index: int) -> list[int]:
        """The context of an item: [max_src_length] ids with masks."""
        ids = self._tokenizer.encode(f" {self.pairs[index].source}")[: self._cfg.max_src_length]
        return ids + [self._tokenizer.pad_id] * (self._cfg.max_src_length - len(ids))


def _drawn(file: Path, cfg: BlankFillingConfig) -> list[Row]:
    rows: list[Row] = []
    for i, line in enumerate(read_lines(file), start=1):
        text = clean.blanks(line)
        if not text or MASK in text:
            rows.append(bad_line(file, i, "has a blank of its own" if text else "empty line"))
        else:
            source = blank(text.split(), cfg.mask_ratio, Random(f"{cfg.seed} {i}"))
            rows.append(Pair(" ".join(source), text))
    return rows


def _given(folder: Path, cfg: BlankFillingConfig) -> list[Row]:
    file = folder / "blank" / f"test.maskratio{cfg.mask_ratio:.1f}.blank"
    rows: list[Row] = []
    for i, lines in enumerate(parallel_lines(file, folder / "test.txt"), start=1):
        source, target = map(clean.blanks, lines)
        if MASK not in source.split() or fill(source.split(), target.split()) is None:
            rows.append(bad_line(file, i, f"is not line {i} of test.txt with blanks"))
        else:
            rows.append(Pair(source, target))
    return rows


def blank(words: Sequence[str], ratio: float, rng: Random) -> list[str]:
    """Words with some of them blanked, at least one; neighbours share a blank."""
    count = max(int(len(words) * ratio), 1)
    gone = set(rng.sample(range(len(words)), count))
    return [
        MASK if i in gone else word
        for i, word in enumerate(words)
        if i not in gone or i - 1 not in gone
    ]


def fill(source: Sequence[str], target: Sequence[str]) -> list[list[str]] | None:
    """Words of `target` in the place of each blank of `source`, at least one in each.

    Returns:
        As few as possible in each blank but the last; None where they do not fit together.
    """
    parts: list[list[str]] = [[]]
    for word in source:
        if word == MASK:
            parts.append([])
        else:
            parts[-1].append(word)
    if list(target[: len(parts[0])]) != parts[0]:
        return None
    found, end = [], len(parts[0])  # end: of what is placed
    for number, part in enumerate(parts[1:], start=1):
        last = number == len(parts) - 1
        starts = [len(target) - len(part)] if last else range(end + 1, len(target))
        fits = (i for i in starts if i > end and list(target[i : i + len(part)]) == part)
        start = next(fits, None)
        if start is None:
            return None
        found.append(list(target[end:start]))
        end = start + len(part)
    return found
