"""Recorded vocabulary maps: the reference keeps them beside the weights, not among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from glmkd_nemo.models.vocab_map import from_original

_PREFIX = "map_vocab_paras/"


def sizes_with_map(root: Path, model_file: str) -> dict[str, Any]:
    """What a model's sizes have besides those that its weights tell, if it has a map.

    Args:
        root: folder of the recorded collections.
        model_file: weights inside it; the case ``glm/<name of the file>`` has their map.

    Returns:
        ``vocab_size`` and the section ``vocab_map`` for the configuration, and ``tables``.
    """
    folder = root / "glm" / Path(model_file).stem
    if not (folder / "case.json").is_file():
        return {}
    config = json.loads((folder / "case.json").read_text())["config"]
    if not config["map_vocab_size"]:
        return {}
    tensors = load_file(folder / "tensors.safetensors")
    paras = {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
    section = {"size": config["map_vocab_size"], "unmap_output": config["unmap_vocab_output"]}
    return {
        "vocab_size": config["vocab_size"],
        "vocab_map": section,
        "tables": from_original(paras),
    }
