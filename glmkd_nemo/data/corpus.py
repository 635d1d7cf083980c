"""Corpora -> a map-style dataset of blank-infilling samples."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from torch.utils.data import Dataset

from glmkd_nemo.data.block_infilling import BlockInfilling, pad
from glmkd_nemo.data.config import DataConfig, as_config
from glmkd_nemo.data.indexed import IndexedCorpus
from glmkd_nemo.data.preprocess import preprocess
from glmkd_nemo.data.readers import check_raw_file, raw_suffix
from glmkd_nemo.data.span_sampling import SpanLengths
from glmkd_nemo.data.tokenizer import GLMTokenizer
from glmkd_nemo.data.windows import SPLITS, WindowSource, parse_split, split_documents

_ATTEMPTS = 100
_LEAST_WINDOW = 16


class BlockDataset(Dataset[dict[str, Any]]):
    """Item i depends only on (seed, split, i), never on the number of ranks, workers or items.

    Args:
        sources: windows of each corpus.
        weights: how often each is drawn.
        infilling: makes samples of windows.
        seq_length: s of every item.
        split: "train", "valid" or "test".
        num_samples: length.
        seed: of all draws.
    """

    def __init__(
        self,
        sources: Sequence[WindowSource],
        weights: Sequence[float],
        infilling: BlockInfilling,
        seq_length: int,
        split: str,
        num_samples: int,
        seed: int,
    ) -> None:
        self._sources = list(sources)
        self._weights = list(weights)
        self._infilling = infilling
        self._seq_length = seq_length
        self._split = split
        self._num_samples = num_samples
        self._seed = seed
        self.tokens = sum(source.tokens for source in sources)

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See `block_infilling.pad`.

        Raises:
            IndexError: outside 0 .. len - 1.
            RuntimeError: no draw fits `seq_length`.
        """
        if not 0 <= index < self._num_samples:
            raise IndexError(f"sample {index} of {self._num_samples}")
        # A string seed is hashed with SHA-512: equal on every machine and Python version.
        rng = Random(f"{self._seed}/{self._split}/{int(index)}")
        for _ in range(_ATTEMPTS):
            window = self._draw_source(rng).draw(rng)
            made = self._infilling.construct([window], rng)
            if made and len(made[0]["input_ids"]) <= self._seq_length:
                return pad(made[0], self._seq_length, self._infilling.tokenizer.pad_id)
        raise RuntimeError(
            f"{self._split} sample {index}: {_ATTEMPTS} draws gave none of at most "
            f"{self._seq_length} positions; lower data.window or the blanked share, or use a "
            "corpus with longer documents"
        )

    def _draw_source(self, rng: Random) -> WindowSource:
        if len(self._sources) == 1:
            return self._sources[0]
        return rng.choices(self._sources, weights=self._weights)[0]


def build_dataset(
    cfg: Any, tokenizer: GLMTokenizer, seq_length: int, split: str, num_samples: int, seed: int
) -> BlockDataset:
    """Opens the corpora of a `DataConfig` and wraps them as a dataset of `num_samples` items.

    Args:
        cfg: `DataConfig` or a mapping with its keys.
        tokenizer: of the model.
        seq_length: s; context and blocks always fit.
        split: "train", "valid" or "test".
        num_samples: length of the dataset.
        seed: of all draws.

    Raises:
        FileNotFoundError, ValueError: a corpus is missing, empty, truncated or of another
            vocabulary; the split holds no document; options do not go together.
    """
    cfg = as_config(DataConfig, cfg)
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    paths, shares = _paths_and_shares(cfg, split)
    size = cfg.window or window_size(cfg, seq_length)
    infilling = BlockInfilling(cfg.block_infilling, tokenizer, size)
    sources = []
    for path in paths:
        corpus = IndexedCorpus(_indexed_prefix(path, cfg, tokenizer), tokenizer)
        documents = split_documents(len(corpus.lengths), shares, split)
        documents = documents[corpus.lengths[documents] > 0]
        if not len(documents):
            raise ValueError(
                f"data.split={cfg.split} leaves no {split} document of the {len(corpus.lengths)} "
                f"in {path}; change the split or give data.{split}_prefixes"
            )
        across = cfg.sample_across_documents
        source = WindowSource(corpus, documents, tokenizer, size, cfg.non_sentence_start, across)
        sources.append(source)
    weights = _weights(cfg, split, sources)
    return BlockDataset(sources, weights, infilling, seq_length, split, num_samples, seed)


def window_size(cfg: DataConfig, seq_length: int) -> int:
    """Most tokens of text that fit `seq_length` positions with their blocks, nearly always.

    Each short span costs two positions (its mask and its start token); the rare draw with more
    spans than allowed for is drawn again.

    Raises:
        ValueError: `seq_length` is too small for any window.
    """
    options = cfg.block_infilling
    lengths = SpanLengths(options.avg_block_length, options.max_block_length)
    for size in range(seq_length, _LEAST_WINDOW - 1, -1):
        if options.masked_lm:
            return size
        if size + 2 * lengths.count_bound(int(options.bert_ratio * size)) <= seq_length:
            return size
    raise ValueError(
        f"sequence length {seq_length} is too small for blank infilling: no window of "
        f"{_LEAST_WINDOW} tokens fits with its blocks"
    )


def _paths_and_shares(cfg: DataConfig, split: str) -> tuple[list[str], tuple[float, float, float]]:
    separate = {"valid": cfg.valid_prefixes, "test": cfg.test_prefixes}
    paths = separate.get(split)
    if paths is not None:
        whole = (0.0, 1.0, 0.0) if split == "valid" else (0.0, 0.0, 1.0)
        return _given(paths, f"data.{split}_prefixes"), whole
    train, valid, test = parse_split(cfg.split)
    if cfg.valid_prefixes is not None:
        train, valid = train + valid, 0.0
    if cfg.test_prefixes is not None:
        train, test = train + test, 0.0
    return _given(cfg.prefixes, "data.prefixes"), (train, valid, test)


def _given(paths: list[str], name: str) -> list[str]:
    if not paths:
        raise ValueError(f"{name} is empty: give indexed corpora or raw text files")
    return paths


def _weights(cfg: DataConfig, split: str, sources: Sequence[WindowSource]) -> list[float]:
    """Shares of the corpora; separate validation and test corpora count by their tokens."""
    separate = {"valid": cfg.valid_prefixes, "test": cfg.test_prefixes}.get(split) is not None
    if cfg.weights is None or separate:
        return [float(source.tokens) for source in sources]
    if len(cfg.weights) != len(sources):
        raise ValueError(
            f"data.weights has {len(cfg.weights)} entries for {len(sources)} data.prefixes"
        )
    if min(cfg.weights) < 0 or not 0 < math.fsum(cfg.weights) < math.inf:
        raise ValueError(f"data.weights={list(cfg.weights)}: shares >= 0 with a positive sum")
    return [float(weight) for weight in cfg.weights]


def _indexed_prefix(path: str, cfg: DataConfig, tokenizer: GLMTokenizer) -> Path:
    """The indexed corpus at `path`; a raw text file is tokenised first."""
    if not raw_suffix(path):
        return Path(path)
    if cfg.cache_dir is None:
        raise ValueError(
            f"data.prefixes holds the raw text {path}: set data.cache_dir to a folder for its "
            "tokens, or make an indexed corpus with scripts/preprocess_data.py"
        )
    return tokenise_once(
        path, tokenizer, cfg.cache_dir, text_key=cfg.text_key, max_bad_rows=cfg.max_bad_rows
    )


def tokenise_once(
    path: str | Path,
    tokenizer: GLMTokenizer,
    cache_dir: str | Path,
    *,
    text_key: str = "text",
    max_bad_rows: int = 1000,
    workers: int = 1,
    progress: bool = False,
) -> Path:
    """Prefix of the indexed form of a raw text file, made on first use and kept in `cache_dir`.

    Several processes may call it at once: one works, the others wait. A changed file (size or
    time) or another vocabulary gives another entry.

    Raises:
        As `preprocess`.
    """
    from filelock import FileLock

    file = check_raw_file(path).resolve()
    stat = file.stat()
    key = [str(file), stat.st_size, stat.st_mtime_ns, text_key, tokenizer.text_fingerprint()]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    prefix = Path(cache_dir).expanduser() / f"{file.name.split('.')[0]}-{digest}"
    done = prefix.with_name(prefix.name + ".json")  # written last
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{prefix}.lock"):
            if not done.is_file():
                preprocess(
                    [file],
                    prefix,
                    tokenizer,
                    text_key=text_key,
                    workers=workers,
                    max_bad_rows=max_bad_rows,
                    overwrite=True,
                    progress=progress,
                )
    except OSError as error:
        raise ValueError(f"cannot write the token cache {prefix}: {error}") from error
    return prefix


__all__ = ["BlockDataset", "build_dataset", "tokenise_once", "window_size"]
