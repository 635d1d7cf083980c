"""Checkpoint folders of the original, and the ``.nemo`` that each is converted to."""

from __future__ import annotations

from dataclasses import dataclass, field

from glmkd_nemo.translate.command import Command
from glmkd_nemo.tune.spelling import spell

SCRIPT = "convert_checkpoint"
EXTRAS = (
    "where a checkpoint has parameters of a method beside the student, the conversion says so: "
    "add drop=[student.*]"
)


@dataclass
class Checkpoints:
    """The conversions that a command needs first, each folder once."""

    _found: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def nemo(self, folder: str, heads: int, options: list[str]) -> str:
        """The archive that `folder` becomes; a ``.nemo`` is itself.

        Args:
            folder: with ``mp_rank_XX_model_states.pt``, or one above.
            heads: attention heads, which weights do not tell.
            options: of the conversion: what else the weights do not tell.
        """
        if folder.endswith(".nemo"):
            return folder
        target = f"{folder.rstrip('/')}.nemo"
        places = (f"source={spell(folder)}", f"target={spell(target)}")
        own = (*places, f"model.num_attention_heads={heads}", *options)
        self._found.setdefault(target, own)
        return target

    def commands(self) -> list[Command]:
        """In the order in which they were asked for."""
        found = list(self._found.values())
        notes = (EXTRAS,) if found else ()
        return [
            Command(SCRIPT, options, notes if i == 0 else ()) for i, options in enumerate(found)
        ]
