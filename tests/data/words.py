"""A WordPiece vocabulary written by hand, so that tests can say which ids they expect."""

from collections.abc import Sequence
from pathlib import Path

from glmkd_nemo.data.tokenizer import GLMTokenizer, build_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = tuple("abcdefghij") + tuple(f"##{c}" for c in "abcdefghij")
MARKS = tuple(".,:?!'\"()-=@")
WORDS = ("content", "question", "answer", "the", "cat", "sat", "on", "mat", "who", "n")


def tokenizer(folder: Path, more: Sequence[str] = (), task_mask: bool = False) -> GLMTokenizer:
    """Ids: the five specials, letters, their continuations, marks, words, `more`, command tokens.

    A word of the letters a to j is split into them: "abc" -> a ##b ##c.
    """
    file = folder / "vocab.txt"
    file.write_text("\n".join((*SPECIAL, *LETTERS, *MARKS, *WORDS, *more)) + "\n")
    return build_tokenizer({"type": "bert", "path": str(file), "task_mask": task_mask})
