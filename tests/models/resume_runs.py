"""Training of a model of all forms through the real shell, and its resumption at other layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.shell import toy
from tests.shell.ranks import DROPOUT_FREE, KEEP_ALL, LAYOUTS, copy_without_end, held_out

FORM = {
    "model__share_layers": True,
    "model__embedding_size": 12,
    "model__bottleneck_size": 16,
    "model__bottleneck_ffns": 2,
    "model__bottleneck_word_embedding": 8,
    "model__init_method_std": 0.2,
    "model__optim__lr": 2e-2,
    **DROPOUT_FREE,
}
CHOSEN = ("dp2", "pp2")


def alone(root: str) -> dict[str, Any]:
    """Six steps on one process."""
    return toy.run(Path(root, "whole"), **KEEP_ALL, **FORM)


def together(root: str) -> dict[str, dict[str, Any]]:
    """By layout: its archive validated, and its run resumed after step 3."""
    found: dict[str, dict[str, Any]] = {}
    for name in CHOSEN:
        folder = Path(root, f"resumed_{name}")
        if dist.get_rank() == 0:
            copy_without_end(Path(root, "whole"), folder)
        dist.barrier()
        archive = Path(root, "whole", "toy.nemo")
        restored = held_out(archive, LAYOUTS[name])
        found[name] = {**toy.run(folder, **FORM, **LAYOUTS[name]), "restored": restored}
    return found
