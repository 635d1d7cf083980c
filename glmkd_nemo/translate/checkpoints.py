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
    """The conversions that a command needs first, each folder once for the same options."""

    _found: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)

    def nemo(self, folder: str, heads: int, options: list[str]) -> str:
        """The archive that `folder` becomes; a ``.nemo`` is itself.

        Args:
            folder: with ``mp_rank_XX_model_states.pt``, or one above.
            heads: attention heads, which weights do not tell.
            options: of the conversion: what else the weights do not tell.
        """
        if folder.endswith(".nemo"):
            return folder
        source = folder.rstrip("/") or folder
        own = (f"model.num_attention_heads={heads}", *options)
        if (source, own) in self._found:
            return self._found[source, own]
        others = [(o, target) for (f, o), target in self._found.items() if f == source]
        target = f"{source}{f'_{len(others) + 1}' if others else ''}.nemo"
        self._found[source, own] = target
        for other, named in others[:1]:
            self._notes.append(
                f"{source} is given with different options: {named} is of "
                f"{_only(other, own)}, {target} of {_only(own, other)}; see whether that is meant"
            )
        return target

    def commands(self) -> list[Command]:
        """In the order in which they were asked for."""
        found = [
            (f"source={spell(source)}", f"target={spell(target)}", *options)
            for (source, options), target in self._found.items()
        ]
        notes = (EXTRAS, *self._notes) if found else ()
        return [
            Command(SCRIPT, options, notes if i == 0 else ()) for i, options in enumerate(found)
        ]


def _only(one: tuple[str, ...], other: tuple[str, ...]) -> str:
    return " ".join(option for option in one if option not in other) or "none of these"
