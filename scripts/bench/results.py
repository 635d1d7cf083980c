"""Results of a bench: the machine they come from, JSON, a table, a plot."""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "megatron-core": version("megatron-core"),
        "load": os.getloadavg(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def save(path: Path, found: Mapping[str, Any]) -> None:
    """Writes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all but the first column to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def bars(rows: Sequence[Mapping[str, Any]], targets: Mapping[str, float]) -> bytes:
    """Step over plain floor by method, one bar per layout and number of threads; PNG.

    Args:
        rows: with ``name``, ``layout``, ``threads`` and ``plain_median``; others are left out.
        targets: by name, drawn as a mark over the bars.
    """
    from matplotlib.figure import Figure

    names = [name for name in targets if any(row["name"] == name for row in rows)]
    series = list(dict.fromkeys((row["layout"], row["threads"]) for row in rows))
    figure = Figure(figsize=(2.5 + 0.5 * len(names), 5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(len(series), 1)
    for number, (layout, threads) in enumerate(series):
        ratio = {
            row["name"]: row["plain_median"]
            for row in rows
            if (row["layout"], row["threads"]) == (layout, threads)
        }
        places = [i + (number + 0.5) * width - 0.4 for i in range(len(names))]
        label = f"{layout}, {threads} thread{'s' if threads > 1 else ''}"
        axes.bar(places, [ratio.get(name, 0.0) for name in names], width, label=label, alpha=0.7)
    axes.axhline(1.0, color="black", linewidth=1, label="floor: student step + teacher forward")
    for i, name in enumerate(names):
        label = "target" if i == 0 else None
        axes.hlines(targets[name], i - 0.45, i + 0.45, colors="red", linewidth=2, label=label)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("step / floor in plain torch")
    axes.legend(fontsize=8)
    return png(figure)


def png(figure: Any) -> bytes:
    """A figure as bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
