"""Converts checkpoints of GLM between the original's files, ``.nemo`` and Hugging Face's layout.

What is read becomes whole weights under original names (:class:`~.whole.Weights`), one at a time;
each format reads and writes those, so any goes to any.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glmkd_nemo.checkpoint.archive import pack
from glmkd_nemo.checkpoint.convert_settings import ConvertSettings, Request
from glmkd_nemo.checkpoint.huggingface import is_huggingface, read_huggingface, write_huggingface
from glmkd_nemo.checkpoint.inferred import known_sizes, model_section
from glmkd_nemo.checkpoint.original_files import read_original
from glmkd_nemo.checkpoint.original_writer import write_original
from glmkd_nemo.checkpoint.placing import check_place, put, staged
from glmkd_nemo.checkpoint.whole import Weights


@contextmanager
def read_any(source: Path, settings: ConvertSettings | None = None) -> Iterator[Weights]:
    """A checkpoint of whichever format.

    Raises:
        FileNotFoundError, ValueError: as the format's reader, by name.
    """
    from glmkd_nemo.checkpoint.nemo_files import is_nemo, read_nemo

    chosen = settings or ConvertSettings()
    plain = ConvertSettings()
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}")
    nemo = is_nemo(source)
    if nemo or (source.is_dir() and is_huggingface(source)):
        for name in ("tag", "drop", "replicas"):
            if getattr(chosen, name) != getattr(plain, name):
                raise ValueError(f"{name}=... is of the original's files, and {source} is none.")
    if nemo:
        with read_nemo(source) as weights:
            yield weights
    elif source.is_dir() and is_huggingface(source):
        yield read_huggingface(source)
    else:
        yield read_original(source, chosen.tag, chosen.drop, chosen.replicas)


def convert(request: Request, weights: Weights) -> dict[str, Any]:
    """Writes the target; it appears whole or not at all.

    Returns:
        The section ``model`` as far as it is known.

    Raises:
        ValueError: what is missing, or does not fit, with the remedy.
        OSError: the disk is full or not writable.
    """
    target, nemo = request.target, request.format == "nemo"
    check_place(request.source, target, not nemo, request.settings.overwrite)
    model = model_section(request, weights)
    _check_extras(request, weights)
    with staged(target) as stage:
        needed = weights.bytes * (2 if nemo else 1)  # a folder, then its archive
        if (free := shutil.disk_usage(stage).free) < needed:
            raise OSError(
                f"{target.parent} has {free / 2**30:.1f} GiB free, and {needed / 2**30:.1f} GiB "
                "are needed: choose another target."
            )
        made = stage / "folder"
        made.mkdir()
        _write(request, weights, model, made)
        if nemo:
            pack(made, stage / "archive")
            made = stage / "archive"
        put(made, target)
    return model


def _write(request: Request, weights: Weights, model: dict[str, Any], stage: Path) -> None:
    if request.format == "original":
        known = known_sizes(request, weights, model)
        write_original(weights, stage, request.settings.model_parallel_size, known)
    elif request.format == "huggingface":
        write_huggingface(weights, stage, model, request.settings.shard_size)
    else:
        from glmkd_nemo.checkpoint.nemo_files import write_folder

        write_folder(weights, stage, model, tokenizer_of(request, weights))


def tokenizer_of(request: Request, weights: Weights) -> Any:
    """The one that is given, or else the source's.

    Raises:
        ValueError: there is none.
    """
    from glmkd_nemo.data.tokenizer import build_tokenizer, load_tokenizer

    if request.given.get("tokenizer"):
        return build_tokenizer(request.given["tokenizer"])
    if weights.tokenizer is None:
        raise ValueError(
            "a .nemo has its tokenizer inside, and the source has none: give model.tokenizer.type "
            "and model.tokenizer.path (conf/tokenizer tells the options of published models)."
        )
    return load_tokenizer(weights.tokenizer)


def _check_extras(request: Request, weights: Weights) -> None:
    if weights.extras and request.format != "original":
        names = ", ".join(list(weights.extras)[:8])
        raise ValueError(
            f"the checkpoint has {len(weights.extras)} parameters of a method beside the student "
            f"({names}), which no {request.format} keeps: leave them out by drop=[student.*]."
        )
