"""Entry point of ``scripts/convert_checkpoint.py``: converts, verifies, prints the summary."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glmkd_nemo.checkpoint.convert import convert, read_any, tokenizer_of
from glmkd_nemo.checkpoint.convert_settings import Request, load_request
from glmkd_nemo.checkpoint.inferred import model_section
from glmkd_nemo.checkpoint.whole import Weights

USER_ERROR = 2
_SHOWN = 12


def main(arguments: list[str]) -> int:
    """Runs the command line; exit code 0, or 2 for a user's error."""
    started = time.monotonic()
    try:
        request = load_request(arguments)
        with read_any(request.source, request.settings) as weights:
            model = convert(request, weights)
            verdict = _verified(request, weights, model) if request.settings.verify else None
            print_summary(weights, model, request, verdict, time.monotonic() - started)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


def _verified(request: Request, weights: Weights, model: dict[str, Any]) -> str:
    """What ``verify=true`` says.

    Raises:
        ValueError: the logits differ.
    """
    from glmkd_nemo.checkpoint.verify import logits_of, logits_of_nemo, vocabulary

    if request.format in ("nemo", "sharded"):
        words = int(tokenizer_of(request, weights).vocab_size)
        after = logits_of_nemo(request.target, words)
    else:
        words = vocabulary(weights)
        with read_any(request.target) as written:
            # the target has to tell all by itself, but for what its format has no place for
            pool = (model.get("head") or {}).get("pool")
            alone = Request(replace(request.settings, pool=pool), {})
            after = logits_of(written, model_section(alone, written), words)
    before = logits_of(weights, model, words)
    # the original's model gives logits of the rows that pad its vocabulary as well
    width = min(before.shape[-1], after.shape[-1])
    before, after = before[..., :width], after[..., :width]
    if not torch.equal(before, after):
        worst = float((before - after).abs().max())
        raise ValueError(
            f"{request.target}: its logits differ from the source's by up to {worst:.3g}; the file "
            "is kept, and must not be used."
        )
    return f"logits before = after, bit by bit, over {before.numel():,} values"


def print_summary(
    weights: Weights, model: dict[str, Any], request: Request, verdict: str | None, seconds: float
) -> None:
    """The table on the terminal; long lines are left whole, for paths are copied from it."""
    rows = summary(weights, model, request)
    if verdict is not None:
        rows["verified"] = verdict
    rows["took"] = f"{seconds:.0f} s, peak memory {_peak_memory():.2f} GiB with mapped files"
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(f"{name:<{width}}{value}")


def _peak_memory() -> float:
    """GiB that this process has had resident."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent had, too
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def summary(weights: Weights, model: dict[str, Any], request: Request) -> dict[str, str]:
    """What was converted, by row."""
    types = Counter(str(meta.dtype).removeprefix("torch.") for meta in weights.metas.values())
    shards = request.settings.model_parallel_size
    of = f", {shards} model-parallel shard(s)" if request.format == "original" else ""
    rows = {
        "source": weights.origin,
        "target": f"{request.format}{of}: {request.target}",
        "weights": f"{len(weights.metas)} tensors, {weights.parameters:,} parameters, "
        f"{weights.bytes / 2**30:.2f} GiB ({', '.join(f'{n} {t}' for t, n in types.items())})",
        "sizes": _sizes(model, weights),
        "mapped": f"all {len(weights.metas)} by name, none missing, none left over",
    }
    if weights.tables is not None:
        kept, of_all = (len(table) for table in weights.tables)
        rows["vocabulary map"] = f"{kept} of {of_all} tokens have rows"
    if weights.extras:
        rows["of methods"] = _counted(weights.extras)
    if weights.dropped:
        rows["dropped, as asked"] = _counted(weights.dropped)
    if weights.not_weights:
        rows["no weights, left out"] = _counted(weights.not_weights)
    return rows


def _sizes(model: dict[str, Any], weights: Weights) -> str:
    words = weights.metas["word_embeddings.weight"].shape[0]
    heads = model["num_attention_heads"]
    found = [
        f"{model['num_layers']} layers{' (one set of weights)' if model['share_layers'] else ''}",
        f"hidden {model['hidden_size']}",
        f"{'?' if heads is None else heads} heads",
        f"{words} rows of words",
        f"{model['max_position_embeddings']} positions",
    ]
    for name in ("embedding_size", "bottleneck_size", "bottleneck_word_embedding"):
        if model.get(name):
            found.append(f"{name} {model[name]}")
    if model.get("head"):
        found.append(f"classifier of {model['head']['num_classes']}")
    return ", ".join(found)


def _counted(found: Iterable[str]) -> str:
    names = list(found)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)}: {', '.join(names[:_SHOWN])}{more}"
