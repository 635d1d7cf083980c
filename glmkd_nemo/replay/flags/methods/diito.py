"""``--student_model=diito``: its own weights take the place of those of soft and hard labels."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation

if TYPE_CHECKING:  # what translates command lines has no need of torch
    from torch import Tensor

OVERRIDDEN = ("distill_soft_rate", "distill_hard_rate")


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    """Raises ``ValueError`` for options that the reference accepts and overrides."""
    if given := [name for name in OVERRIDDEN if name in flags]:
        raise ValueError(
            f"--{given[0]} has no effect with --student_model=diito: set --diito_alpha_ce (soft "
            "labels) and --diito_alpha_mlm (hard labels)."
        )
    if int(flags.get("forward_repeat_num", 0)) != 1:
        raise ValueError("--student_model=diito needs --forward_repeat_num=1.")
    terms = dict(predictions)
    soft = terms.pop("soft", None)
    hard = terms.pop("hard", None)
    if soft is not None and _alpha(flags, "ce"):
        terms["soft"] = {**soft, "weight": _alpha(flags, "ce")}
    if hard is not None and _alpha(flags, "mlm"):
        terms["hard"] = {**hard, "weight": _alpha(flags, "mlm")}
    kd = {key: value for key, value in (soft or {}).items() if key != "weight"}
    return {**terms, "diito": {**kd, **_interchange(flags, causal_ce=soft is not None)}}


def _interchange(flags: Flags, causal_ce: bool) -> dict[str, Any]:
    most = int(flags.get("diito_interchange_max_token", -1))
    return {
        "method": "diito",
        "cos": _alpha(flags, "cos"),
        "causal_ce": _alpha(flags, "causal_ce") if causal_ce else 0.0,
        "causal_cos": _alpha(flags, "causal_cos"),
        "alignment": flags.get("diito_alignment", "full"),
        "way": flags.get("diito_interchange_way", "consecutive"),
        "share": float(flags.get("diito_interchange_prop", 0.3)),
        "max_tokens": None if most < 0 else most,
    }


def _alpha(flags: Flags, name: str) -> float:
    return float(flags.get(f"diito_alpha_{name}", 1))


class _Recorded(random.Random):
    """Draws the recorded layer, and the positions of the recorded masks in their order."""

    def __init__(self, layer: int, mask: Tensor, dual_mask: Tensor) -> None:
        import torch

        super().__init__(0)
        self._layer = layer
        in_turn = torch.stack([mask, dual_mask], 1).flatten(0, 1)  # sample, dual, sample, dual ...
        self._positions = [row.nonzero()[:, 0].tolist() for row in in_turn]

    def choice(self, seq: Any) -> Any:
        return self._layer if self._layer in seq else seq[0]

    def randint(self, a: int, b: int) -> int:
        positions = self._positions.pop(0)
        return positions[0] if positions else a

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        return self._positions.pop(0)


def _draws(
    record: Mapping[str, Any], tensors: Mapping[str, Any], what: tuple[object, ...]
) -> random.Random:
    masks = tensors["choice/interchange_mask"], tensors["choice/dual_interchange_mask"]
    return _Recorded(int(record["rng"]["s_alignment_layer"]), *masks)


TRANSLATION = Translation(
    _terms,
    parts={
        r"pre_loss/[pf]t_soft_repeat1_causal1": Logged("diito/causal_ce"),
        r"inter_loss/diito_alpha_cos_0": Logged("diito/cos"),
        r"inter_loss/diito_alpha_cos_1_repeat1": Logged("diito/causal_cos"),
    },
    draws=_draws,
)
