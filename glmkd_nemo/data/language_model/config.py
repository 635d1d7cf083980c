"""Configuration of language-model tasks (defaults: the reference's)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.data.language_model.detokenizers import DETOKENIZERS
from glmkd_nemo.data.text_files import DOCUMENT_BY


@dataclass
class LanguageModelConfig:
    """What LAMBADA and perplexities have in common.

    Attributes:
        name: of the task.
        data_dir: folder of the files below.
        train_file, valid_file, test_file: names in `data_dir`, or paths: .jsonl or text, or .gz.
        seq_length: longest sequence, in tokens.
        unidirectional: predict everything after the first token from left to right; else the text
            before what is counted is context, seen in both directions.
        task_mask: [gMASK] stands for what is predicted, in place of [MASK].
        block_position_encoding: count positions inside what is predicted (else 1 throughout).
        detokenizer: one of `DETOKENIZERS`.
        text_key: key of the text in jsonl rows.
    """

    name: str = "lambada"
    data_dir: str | None = None
    train_file: str | None = None
    valid_file: str | None = None
    test_file: str | None = None
    seq_length: int = 512
    unidirectional: bool = False
    task_mask: bool = False
    block_position_encoding: bool = True
    detokenizer: str = "none"
    text_key: str = "text"

    def __post_init__(self) -> None:
        _one_of("detokenizer", self.detokenizer, DETOKENIZERS)
        if self.seq_length < 8:
            raise ValueError(f"task.seq_length={self.seq_length} must be at least 8")

    def file(self, split: str) -> Path:
        """Where the rows of "train", "valid" or "test" are.

        Raises:
            ValueError: no file is configured for the split.
        """
        name = getattr(self, f"{split}_file")
        if not name:
            raise ValueError(
                f"task {self.name} has no file for {split}: give task.{split}_file=..."
            )
        if not Path(name).is_absolute() and not self.data_dir:
            raise ValueError(f"task {self.name} does not know where {name} is: give task.data_dir")
        return Path(self.data_dir or ".").expanduser() / Path(name).expanduser()


@dataclass
class PerplexityConfig(LanguageModelConfig):
    """Perplexity of text in overlapping windows.

    Attributes:
        stride: new tokens of each window after a document's first; the rest is context. Smaller
            is better measured, and slower.
        document_by: of text files: "file", "line" or "blank_line" (jsonl: a row is a document).
    """

    name: str = "wikitext"
    stride: int = 32
    document_by: str = "file"
    detokenizer: str = "wikitext"

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("document_by", self.document_by, DOCUMENT_BY)
        if not 1 <= self.stride <= self.seq_length - 1:
            raise ValueError(
                f"task.stride={self.stride} is not between 1 and task.seq_length - 1 = "
                f"{self.seq_length - 1}, the tokens of a window"
            )


def _one_of(key: str, value: str, known: object) -> None:
    names = tuple(known)  # type: ignore[arg-type,var-annotated]
    if value not in names:
        raise ValueError(
            f"task.{key}={value!r} is not one of {', '.join(names)}{nearest(value, names)}"
        )
