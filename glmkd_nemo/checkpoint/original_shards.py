"""Files of the original GLM: ``<folder>/<tag>/mp_rank_XX_model_states.pt``, found and opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from glmkd_nemo.checkpoint.pickles import Mapped
from glmkd_nemo.checkpoint.whole import meta

SHARD = "mp_rank_{:02d}_model_states.pt"
TRACKERS = ("latest_checkpointed_iteration.txt", "latest")
MODULE, NONPARAMETERS, MAP = "module", "important_nonparameters", "glm.map_vocab_paras"
_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_WRAPPERS = re.compile(r"((module|model|origin_model)\.)+")


def find_shards(source: Path, tag: str | None = None) -> list[Path]:
    """Files of a checkpoint by rank.

    Args:
        source: folder with a tracker file, the folder of a tag, or one of its files.
        tag: which one of the folder (default: what the tracker says).

    Raises:
        FileNotFoundError: there is no checkpoint, or a shard is missing.
        ValueError: the tag is no name.
    """
    if source.is_file():
        if not _FILE.fullmatch(source.name):
            return [source]
        source = source.parent
    folder = _folder(source, tag)
    found = {int(m[1]): f for f in folder.iterdir() if (m := _FILE.fullmatch(f.name))}
    if not found:
        raise FileNotFoundError(f"{folder} has no {SHARD.format(0)}: give a checkpoint's folder.")
    for rank in range(max(found) + 1):
        if rank not in found:
            raise FileNotFoundError(
                f"{folder / SHARD.format(rank)} is missing: of {max(found) + 1} shards there are "
                f"{len(found)}. Copy it too."
            )
    return [found[rank] for rank in sorted(found)]


def _folder(source: Path, tag: str | None) -> Path:
    if tag is None and source.is_dir() and any(_FILE.fullmatch(f.name) for f in source.iterdir()):
        return source
    tracker = next((source / name for name in TRACKERS if (source / name).is_file()), None)
    if tag is None and tracker is not None:
        tag = tracker.read_text(encoding="utf-8").strip()
    if tag is None:
        raise FileNotFoundError(
            f"{source} is no checkpoint of the original GLM: it has neither {TRACKERS[0]} nor "
            f"{SHARD.format(0)}."
        )
    if tag in ("", ".", "..") or Path(tag).name != tag:
        raise ValueError(f"the tag {tag!r} of {source} is no name of a folder in it.")
    if not (source / tag).is_dir():
        raise FileNotFoundError(f"{source} has no folder {tag!r}, the tag asked for.")
    return source / tag


class Shard:
    """One file, its weights by their plain names.

    Args:
        path: of the file.

    Attributes:
        metas: shape and dtype of each weight, as tensors on the meta device.
        odd: names of what is no tensor among the weights.
        rest: the other entries of the file.
        nonparameters: those that the original saves beside weights.

    Raises:
        CheckpointDamaged, CheckpointRefused: as :func:`~.pickles.read_pickle`.
        ValueError: no file of a GLM.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, Mapped(path)
        state = self.file.state
        module = state.get(MODULE) if isinstance(state, dict) else None
        if not isinstance(module, Mapping) or not module:
            raise ValueError(f"{path} has no weights under {MODULE!r}: no file of a GLM.")
        tensors = {str(n): t for n, t in module.items() if isinstance(t, Tensor)}
        self.names = {_plain(name): name for name in tensors}
        if len(self.names) < len(tensors):
            twice = next(name for name in tensors if self.names[_plain(name)] != name)
            raise ValueError(f"{path} has {_plain(twice)!r} twice, once as {twice!r}.")
        self.metas = {_plain(n): meta(t.shape, t.dtype) for n, t in tensors.items()}
        self.odd = [str(n) for n, t in module.items() if not isinstance(t, Tensor)]
        if empty := [name for name, tensor in self.metas.items() if not tensor.numel()]:
            raise ValueError(
                f"{path}: {empty[0]} and {len(empty) - 1} others are empty, as DeepSpeed's ZeRO-3 "
                "leaves them: consolidate the checkpoint first (its zero_to_fp32.py)."
            )
        self.rest = {str(name): value for name, value in state.items() if name != MODULE}
        self.nonparameters = self.rest.get(NONPARAMETERS) or {}
        if not isinstance(self.nonparameters, Mapping):
            raise ValueError(f"{path}: {NONPARAMETERS} is no mapping: no file of a GLM.")

    def tensor(self, name: str) -> Tensor:
        """A weight's part in this file, on the disk until it is used."""
        found: Tensor = self.file.state[MODULE][self.names[name]]
        self.file.used(found.nbytes)
        return found


def _plain(name: str) -> str:
    return _WRAPPERS.sub("", name, count=1) if _WRAPPERS.match(name) else name


def tag_of(file: Path) -> str | None:
    """The folder's name of a file that is called as shards are."""
    return file.resolve().parent.name if _FILE.fullmatch(file.name) else None
