"""``.nemo`` archives and sharded folders, read and written one weight at a time.

A sharded folder is an archive unpacked, and taken wherever an archive is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from glmkd_nemo.checkpoint.archive import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    extracted,
    read_nemo_config,
)
from glmkd_nemo.checkpoint.original_glm import from_original, our_name, to_original
from glmkd_nemo.checkpoint.sharded import CheckpointDamaged, check_whole
from glmkd_nemo.checkpoint.skeleton import (
    MAP,
    as_stored,
    model_on_meta,
    objects,
    places,
    with_file_types,
)
from glmkd_nemo.checkpoint.streaming import Places, ShardedReader, write_sharded
from glmkd_nemo.checkpoint.weights import compare_weights
from glmkd_nemo.checkpoint.whole import Weights, meta
from glmkd_nemo.data.tokenizer import load_tokenizer
from glmkd_nemo.models.vocab_map import Tables

KEPT, ROWS = f"{MAP}kept_ids", f"{MAP}row_of_id"
SIZES = (  # keys of the section `model` that make the model what it is
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads"),
    *("max_position_embeddings", "make_vocab_size_divisible_by", "layernorm_epsilon"),
    *("attention_scale", "embedding_size", "share_layers", "bottleneck_size", "bottleneck_ffns"),
    *("bottleneck_word_embedding", "vocab_map", "head", "hidden_dropout", "attention_dropout"),
    *("embedding_dropout", "encoder_seq_length", "init_method_std", "tokenizer"),
)


def is_nemo(source: Path) -> bool:
    """Whether it is a ``.nemo`` archive or an unpacked one."""
    return (source / CONFIG).is_file() if source.is_dir() else source.suffix == ".nemo"


@contextmanager
def read_nemo(source: Path) -> Iterator[Weights]:
    """What an archive or a sharded folder holds, as long as the context lasts.

    Raises:
        FileNotFoundError, CheckpointDamaged: by name.
        WeightsMismatch: weights that do not fit its configuration, by name.
    """
    cfg: Any = OmegaConf.to_container(read_nemo_config(source), resolve=True)
    _check_sizes(cfg, source)
    with extracted(source) as folder:
        check_whole(folder / WEIGHTS)
        words = load_tokenizer(folder / TOKENIZER).vocab_size
        model = model_on_meta(cfg, words)
        found = model.sharded_state_dict(prefix="model.")
        compare_weights(found, folder / WEIGHTS, str(source), vocab_size=model.config.word_rows)
        reader = ShardedReader(folder / WEIGHTS)
        there = dict(with_file_types(places(model), reader.stored))
        heads = int(cfg["num_attention_heads"])

        def read(name: str) -> Tensor:
            ours = our_name(name)
            return to_original({ours: reader.read(there[name])}, heads)[name]

        yield Weights(
            origin=f"{'sharded folder' if source.is_dir() else '.nemo archive'} {source}",
            metas={n: meta(p.local_shape, p.dtype) for n, p in there.items() if n not in _TABLES},
            read=read,
            model={name: cfg[name] for name in SIZES if cfg.get(name) is not None},
            tables=_tables(there, reader),
            tokenizer=folder / TOKENIZER,
        )


def _check_sizes(cfg: Mapping[str, Any], source: Path) -> None:
    needed = ("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings")
    if wrong := [name for name in needed if type(cfg.get(name)) is not int]:
        raise CheckpointDamaged(
            f"{source}: {CONFIG} has {wrong[0]}={cfg.get(wrong[0])!r}, which is no size of a model."
        )


_TABLES = (KEPT, ROWS)


def _tables(there: Places, reader: ShardedReader) -> Tables | None:
    return Tables(reader.read(there[KEPT]), reader.read(there[ROWS])) if KEPT in there else None


def write_folder(weights: Weights, folder: Path, model: Mapping[str, Any], tokenizer: Any) -> None:
    """Writes a sharded folder: configuration, weights and tokenizer.

    Args:
        weights: of any source.
        folder: exists, and is empty.
        model: the section ``model``, whole.
        tokenizer: of the model.

    Raises:
        ValueError: weights that the configured model has not, or lacks, by name; a vocabulary
            that is larger than the model's.
        OSError: the disk is full or not writable.
    """
    words = int(tokenizer.vocab_size)
    tables = _cut(weights, words)
    built = model_on_meta(model, words)
    wanted = places(built)
    _check_names({n for n in wanted if not n.startswith(MAP)}, set(weights.metas))
    heads = int(model["num_attention_heads"])

    def read(name: str) -> Tensor:
        if name in tables:
            return tables[name]
        return from_original({name: weights.read(name)}, heads)[our_name(name)]

    (folder / WEIGHTS).mkdir()
    write_sharded(folder / WEIGHTS, dict(_as_in(wanted, weights)), objects(built), read)
    OmegaConf.save(DictConfig(dict(model)), folder / CONFIG, resolve=True)
    tokenizer.save(folder / TOKENIZER)


def _cut(weights: Weights, words: int) -> dict[str, Tensor]:
    """Tables of the tokenizer's ids; the original's go on with ids that pad its vocabulary."""
    rows = weights.metas["word_embeddings.weight"].shape[0]
    if weights.tables is None:
        if words > rows:
            raise ValueError(
                f"the tokenizer has {words} tokens, the checkpoint {rows} rows: give the "
                "tokenizer that it was trained with (model.tokenizer.type, .path, .task_mask)."
            )
        return {}
    kept, row_of_id = weights.tables
    if words > len(row_of_id) or bool((kept >= words).any()):
        raise ValueError(
            f"the vocabulary map is of {len(row_of_id)} tokens, the tokenizer has {words}: give "
            "the tokenizer that it was trained with (model.tokenizer.type, .path, .task_mask)."
        )
    return {KEPT: kept, ROWS: row_of_id[:words]}


def _check_names(wanted: set[str], found: set[str]) -> None:
    for names, what in ((wanted - found, "lacks"), (found - wanted, "has, and the model has not,")):
        if names:
            raise ValueError(
                f"the checkpoint {what} {len(names)} weights ({', '.join(sorted(names)[:8])}): "
                "check model.num_layers and the other sizes."
            )


def _as_in(wanted: Places, weights: Weights) -> Iterator[tuple[str, Any]]:
    """Places with the dtypes of the source; the word embedding also with all of its rows."""
    for name, place in wanted.items():
        if name in _TABLES:
            yield name, place
            continue
        found = weights.metas[name]
        more_rows = place.allow_shape_mismatch and found.shape[1:] == place.local_shape[1:]
        own = as_stored(place, found.dtype, found.shape if more_rows else None)
        if tuple(own.local_shape) != tuple(found.shape):
            raise ValueError(
                f"{name}: the checkpoint's is {tuple(found.shape)}, the model's "
                f"{tuple(own.local_shape)}: check the sizes given as model.KEY=..."
            )
        yield name, own
