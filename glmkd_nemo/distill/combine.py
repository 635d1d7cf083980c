"""From per-sample loss parts to the loss of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from glmkd_nemo.distill.aggregator import Factor, Weights
from glmkd_nemo.distill.objective import WeightedPart

Valued = tuple[WeightedPart, Tensor]


def combined(
    values: Sequence[Valued], weights: Weights | None, teachers: Sequence[str]
) -> Tensor | None:
    """Weighted sum of the means of parts.

    Args:
        values: parts with their values ``[b]``.
        weights: of the aggregator; ``None`` without one.
        teachers: names, in the order of the weights.

    Returns:
        A scalar, or ``None`` if there is nothing to add.
    """
    total = None
    for planned, value in values:
        factor = factor_of(planned, weights, teachers)
        total = added(total, planned.weight * weighed(value, factor))
    if weights is not None:
        for loss in weights.extra.values():
            total = added(total, weights.extra_weight * loss.mean())
    return total


def added(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    """The sum of two scalars, either of which may be missing."""
    if total is None or term is None:
        return term if total is None else total
    return total + term


def factor_of(planned: WeightedPart, weights: Weights | None, teachers: Sequence[str]) -> Factor:
    """The aggregator's factor on a part; 1 without aggregator."""
    if weights is None:
        return 1.0
    if planned.teacher is None:
        return weights.hard
    kind = weights.prediction if planned.part.prediction else weights.intermediate
    return kind[teachers.index(planned.teacher)]


def weighed(value: Tensor, factor: Factor) -> Tensor:
    """Mean of ``value [n]`` times ``factor``, a number or ``[b]`` with ``n`` a multiple of ``b``.

    Where a sample has several sequences (answer choices) its value is their mean.
    """
    if isinstance(factor, Tensor) and factor.dim():
        return (value.view(factor.shape[0], -1).mean(1) * factor).mean()
    return value.mean() * factor
