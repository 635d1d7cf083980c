"""DeepSpeed's checkpoints of this project's models, read without DeepSpeed's engine.

``mp_rank_XX_model_states.pt`` has the shard of a tensor-parallel rank under ``module``, with names
as in ``GLMModel`` after ``model.``. Under ZeRO-3 the weights are in parts, one file per
data-parallel rank, which DeepSpeed's own ``zero_to_fp32`` puts together. (Checkpoints of the
original GLM look alike and have other names: ``scripts/convert_checkpoint.py`` reads those.)
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import load_whole, plain_name
from glmkd_nemo.checkpoint.pickles import read_pickle
from glmkd_nemo.checkpoint.sharded import CheckpointDamaged
from glmkd_nemo.checkpoint.weights import BESIDE
from glmkd_nemo.models.glm import GLMModel

PREFIX = "model."  # of the model in what DeepSpeed wraps
_ROWS = re.compile(r".*(word_embeddings\.weight|linear_(qkv|fc1)\.(weight|bias))")
_COLUMNS = re.compile(r".*linear_(proj|fc2)\.weight")
_RANK = re.compile(r"mp_rank_(\d+)_")


def read_whole_weights(folder: str | Path, tag: str | None = None) -> dict[str, Tensor]:
    """Whole weights under our names, in the host's memory.

    Args:
        folder: where DeepSpeed saved (``<checkpoint>/deepspeed`` of a run of this project).
        tag: the folder in it; by default the one that the file ``latest`` names.

    Returns:
        Weights of the model alone, without a method's projections, named as in plain layers; in
        fp32 under ZeRO-3, else as the model had them.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointDamaged: the file of a rank is missing, or a file is truncated.
        ValueError: it is of another model, or its pickle asks for code to be run. (DeepSpeed's own
            functions, which put ZeRO-3's parts together, run what a pickle says: read such files
            of your own runs only.)
    """
    place = _place(Path(folder), tag)
    ranks = sorted({int(m[1]) for f in place.iterdir() if (m := _RANK.search(f.name))})
    if not ranks:
        raise FileNotFoundError(f"{place} has no mp_rank_XX_model_states.pt")
    if ranks != list(range(len(ranks))):
        raise CheckpointDamaged(f"{place} has tensor-parallel ranks {ranks}: one is missing")
    shards = [_shard(place, rank) for rank in ranks]
    if not all(shard.keys() == shards[0].keys() for shard in shards):
        raise CheckpointDamaged(f"{place}: the files of its ranks are of different models")
    return {name: _joined(name, [shard[name] for shard in shards]) for name in shards[0]}


def load_weights(model: GLMModel, folder: str | Path, tag: str | None = None) -> None:
    """Puts a DeepSpeed checkpoint into a model at the model's own layout, rank by rank.

    Raises:
        ValueError: a weight that is missing or of another size; and what
            :func:`read_whole_weights` raises.
    """
    load_whole(model, read_whole_weights(folder, tag))


def _place(folder: Path, tag: str | None) -> Path:
    latest = folder / "latest"
    if tag is None and not latest.is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint of DeepSpeed: it has no file `latest`")
    place = folder / (tag if tag is not None else latest.read_text(encoding="utf-8").strip())
    if not place.is_dir():
        raise FileNotFoundError(f"there is no checkpoint {place}")
    return place


def _shard(place: Path, rank: int) -> dict[str, Tensor]:
    """The weights of a tensor-parallel rank."""
    file = place / f"mp_rank_{rank:02d}_model_states.pt"
    if file.is_file():
        state = read_pickle(file)["module"]
    else:
        state = _put_together(place, rank)
    names = [n for n in state if n.startswith(PREFIX) and isinstance(state[n], Tensor)]
    if not names:
        raise ValueError(
            f"{file} has no weights of this project's model (model.*): one of the original GLM is "
            "read by scripts/convert_checkpoint.py."
        )
    own = {plain_name(name.removeprefix(PREFIX)): state[name] for name in names}
    return {n: t for n, t in own.items() if not n.startswith(BESIDE)}


def _put_together(place: Path, rank: int) -> Mapping[str, Tensor]:
    """ZeRO-3's parts of a tensor-parallel rank, by DeepSpeed's own function.

    It knows of one tensor-parallel rank only: it is shown links to the files of that one.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with tempfile.TemporaryDirectory() as name:
        for file in place.glob(f"*mp_rank_{rank:02d}_*"):
            os.symlink(
                file.resolve(), Path(name, file.name.replace(f"mp_rank_{rank:02d}", "mp_rank_00"))
            )
        with redirect_stdout(io.StringIO()):  # it tells of every step
            whole: Mapping[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
                str(Path(name).parent), tag=Path(name).name
            )
    return whole


def _joined(name: str, parts: Sequence[Tensor]) -> Tensor:
    if len(parts) == 1 or not (_ROWS.fullmatch(name) or _COLUMNS.fullmatch(name)):
        return parts[0]
    return torch.cat(list(parts), 1 if _COLUMNS.fullmatch(name) else 0)
