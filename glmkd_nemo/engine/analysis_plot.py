"""Heat-maps of similarities between a student's and a teacher's layers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from glmkd_nemo.distill.analysis import BY_LAYER, LOGITS, OUTPUT


def heat_map(values: Mapping[str, float], title: str, temperatures: Sequence[float]) -> bytes:
    """One panel per measure: quantities by row, layers by column; darker is less similar.

    Args:
        values: by ``name/measure``, see :func:`glmkd_nemo.distill.analysis.similarities`.
        title: above all panels.
        temperatures: those measured; the first and the one in the middle are drawn.

    Returns:
        PNG. What could not be compared stays white.
    """
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    chosen = dict.fromkeys((temperatures[0], temperatures[len(temperatures) // 2]))
    kinds = ["mse", *(f"kl_{t:g}" for t in chosen)]
    measures = [*kinds, *(f"self_{kind}" for kind in kinds)]
    layers = max(int(name.split("/")[0].split(".")[1]) for name in values if "." in name)
    rows = [*BY_LAYER, OUTPUT, LOGITS]
    figure = Figure(figsize=(3.2 + 1.0 * layers * len(kinds), 7.5), layout="constrained")
    figure.suptitle(f"difference to {title}")
    for axes, measure in zip(figure.subplots(2, len(kinds)).flat, measures, strict=True):
        grid = np.array(
            [[_value(values, row, i, layers, measure) for i in range(layers)] for row in rows]
        )
        known = grid[grid > 0]
        scale = LogNorm(known.min(), known.max() * (1 + 1e-6)) if known.size else None
        shown = np.where(grid > 0, grid, np.nan)
        axes.imshow(shown, cmap="YlOrRd", norm=scale, aspect="auto", alpha=0.7)
        for (y, x), value in np.ndenumerate(grid):
            if not np.isnan(value):
                axes.text(x, y, f"{value:.1e}", ha="center", va="center", fontsize=7)
        axes.set_title(measure.replace("_", " "), fontsize=10)
        axes.set_xticks(range(layers), [str(i + 1) for i in range(layers)], fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.set_xlabel("student layer", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _value(values: Mapping[str, float], row: str, layer: int, layers: int, measure: str) -> float:
    """Final states and logits stand in the last column."""
    if row in BY_LAYER:
        return values.get(f"{row}.{layer + 1}/{measure}", float("nan"))
    return values.get(f"{row}/{measure}", float("nan")) if layer == layers - 1 else float("nan")
