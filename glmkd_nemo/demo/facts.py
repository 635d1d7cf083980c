"""What was run, for the report: text, settings, versions, how things were measured."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from typing import Any

from glmkd_nemo.demo.corpus import corpus_files
from glmkd_nemo.demo.settings import DemoSettings

_SECTIONS = ("teacher", "student", "kd", "glmd")


def identity(corpus: str | None) -> Any:
    """What tells one text from another without reading it."""
    if corpus is None:
        return f"python {platform.python_version()}"
    stats = [(str(file.absolute()), file.stat()) for file in corpus_files(corpus)]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def on_corpus(corpus: dict[str, Any], settings: DemoSettings) -> dict[str, str]:
    """Name and size of the text."""
    tokens = {f"{name} tokens": f"{count:,}" for name, count in corpus["tokens"].items()}
    vocabulary = {"vocabulary": f"{settings.vocab_size:,} (WordPiece, trained on it)"}
    return {"text": corpus["name"], **tokens, **vocabulary}


def on_settings(settings: DemoSettings) -> dict[str, str]:
    """Seed, sizes and the methods' settings."""
    flat = asdict(settings)
    return {
        **{k: str(flat[k]) for k in ("seed", "threads", "seq_length", "batch_size")},
        **{k: ", ".join(f"{a} {b}" for a, b in flat[k].items()) for k in _SECTIONS},
    }


def versions() -> dict[str, str]:
    """Python, engines, machine."""
    from importlib.metadata import version

    names = ("torch", "megatron-core", "nemo-toolkit", "lightning")
    machine = f"{platform.system()}, {os.cpu_count()} CPUs"
    python = {"python": platform.python_version()}
    return {**python, **{name: version(name) for name in names}, "machine": machine}


def notes(settings: DemoSettings) -> list[str]:
    """How things were measured."""
    return [
        f"Blank infilling (GLM, arXiv 2103.10360): {settings.batch_size} windows of up to "
        f"{settings.seq_length} positions a step, 15 % of the words blanked in spans of about "
        "three.",
        "Held-out loss is the mean cross entropy in nats per blank token, accuracy the share of "
        "blank tokens whose most likely prediction is right, given the blank's earlier tokens. The "
        "end of a blank counts as a token of it: about a quarter of all, and easily learnt.",
        "The table is on test text; the curves, and the choice of GLMD's stages, are on validation "
        "text. Neither was trained on.",
        "A step's time is the mean over training, on this machine, the teacher's forward pass "
        "included where there is one. GLMD's second stage has no teacher unless it is `soft`.",
        f"TensorBoard: tensorboard --logdir {settings.out}",
    ]
