"""What a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One command: ``python scripts/<script>.py *arguments``.

    Attributes:
        name: unique in the recipe.
        script: of ``scripts``, without suffix.
        arguments: complete.
        needs: stages that must be done before.
        folder: where it writes.
        result: what it leaves when it is complete: it is there if the stage is done.
        nodes, devices: what it asks for; devices are those of a node.
        model: the ``.nemo`` that it leaves; None if it leaves none.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    folder: Path
    result: Path
    nodes: int = 1
    devices: int = 1
    model: Path | None = None


@dataclass(frozen=True)
class Recipe:
    """Stages in an order in which they can run.

    Attributes:
        name: of its file.
        out: where it writes.
        stages: in order.
        scale: full or tiny.
        inputs: files that must be there before, with the key that names them.
    """

    name: str
    out: Path
    stages: tuple[Stage, ...]
    scale: str = "full"
    inputs: tuple[tuple[str, str], ...] = ()
