"""Configuration of sequence-to-sequence tasks; conf/task has the published values of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Seq2SeqConfig:
    """Data, and how texts are generated and compared. Defaults: the reference's, or of CNN/DM.

    Attributes:
        name: of the task.
        data_dir: folder with its files, see `readers`.
        max_src_length: length of every context, in tokens: it is cut or padded to that.
        max_tgt_length: most tokens of a target, end token included.
        task_mask: [sMASK] stands for the target, in place of [MASK].
        max_bad_rows: rows that are empty, or otherwise unusable, that are left out.
        min_tgt_length: least tokens generated.
        num_beams: of beam search; 1: greedy.
        length_penalty: power of the length by which scores of beams are divided.
        no_repeat_ngram_size: no n-gram of this many tokens is generated twice; 0: any may be.
        rouge_min_words: shorter sentences of predictions do not count for ROUGE.
        rouge_duplicate_rate: nor do those of which a larger share of words came before.
    """

    name: str = "cnn_dm"
    data_dir: str | None = None
    max_src_length: int = 608
    max_tgt_length: int = 160
    task_mask: bool = False
    max_bad_rows: int = 0
    min_tgt_length: int = 0
    num_beams: int = 1
    length_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    rouge_min_words: int = 5
    rouge_duplicate_rate: float = 0.7

    def __post_init__(self) -> None:
        for key, least in (("max_src_length", 8), ("max_tgt_length", 2), ("max_bad_rows", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"task.{key}={getattr(self, key)} must be at least {least}")

    def folder(self) -> Path:
        """Where the files are.

        Raises:
            ValueError: nobody said where.
            FileNotFoundError: no such folder.
        """
        if not self.data_dir:
            raise ValueError(
                f"task {self.name} does not know where its files are: give task.data_dir"
            )
        folder = Path(self.data_dir).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"task.data_dir={folder} is not a folder")
        return folder


@dataclass
class BlankFillingConfig(Seq2SeqConfig):
    """Sentences with some words blanked.

    Attributes:
        mask_ratio: share of the words that are blanked; also names the file of the test set.
        seed: of the choice of words in training and validation.
    """

    name: str = "blank_filling"
    max_src_length: int = 256
    max_tgt_length: int = 200
    mask_ratio: float = 0.1
    seed: int = 1234

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"task.mask_ratio={self.mask_ratio} is not between 0 and 1")
