"""A checkpoint that is much larger than what conversion may use of the memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.checkpoint.originals import write
from tests.data.words import tokenizer

ROOT = Path(__file__).resolve().parents[2]
LAYERS, HIDDEN, WORDS = 24, 1024, 30592
GIB = 2**30
CHILD = """
import json, sys, threading, time
from pathlib import Path
import glmkd_nemo
from glmkd_nemo.checkpoint import skeleton, summary
peak = {"RssAnon": 0, "VmRSS": 0}
def sample():
    lines = Path("/proc/self/status").read_text().splitlines()
    rows = (line.partition(":") for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, _, value in rows if name in peak}
before = sample()
def watch():
    while True:
        for name, value in sample().items():
            peak[name] = max(peak[name], value)
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
code = summary.main(sys.argv[1:])
more = {name: peak[name] - before[name] for name in peak}
Path("peak.json").write_text(json.dumps(more))
sys.exit(code)
"""


def large() -> dict[str, Tensor]:
    """GLM-large in fp32, 1.25 GiB; its values do not matter."""
    wide, layer = 4 * HIDDEN, {}
    shapes = {
        "input_layernorm": (HIDDEN,),
        "attention.query_key_value": (3 * HIDDEN, HIDDEN),
        "attention.dense": (HIDDEN, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.dense_h_to_4h": (wide, HIDDEN),
        "mlp.dense_4h_to_h": (HIDDEN, wide),
    }
    for name, shape in shapes.items():
        layer |= {f"{name}.weight": torch.rand(shape), f"{name}.bias": torch.rand(shape[:1])}
    state = {
        "word_embeddings.weight": torch.rand(WORDS, HIDDEN),
        "transformer.position_embeddings.weight": torch.rand(513, HIDDEN),
        "transformer.block_position_embeddings.weight": torch.rand(513, HIDDEN),
        "transformer.final_layernorm.weight": torch.rand(HIDDEN),
        "transformer.final_layernorm.bias": torch.rand(HIDDEN),
    }
    for i in range(LAYERS):
        state |= {f"transformer.layers.{i}.{name}": tensor for name, tensor in layer.items()}
    return state


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_conversion_needs_a_few_of_the_largest_weights(tmp_path: Path):
    state = large()
    largest = max(tensor.nbytes for tensor in state.values())
    total = sum(tensor.nbytes for tensor in state.values())
    write(tmp_path / "a", state, 2, entries={})
    del state
    tokenizer(tmp_path)
    (tmp_path / "child.py").write_text(CHILD)
    options = ["model.num_attention_heads=16", "model.tokenizer.type=bert"]
    options += ["model.tokenizer.path=vocab.txt", "shard_size=200MB"]
    chain = [("a", "b", "sharded"), ("b", "c", "huggingface"), ("c", "d", "original")]
    for source, target, form in chain:
        arguments = [f"source={source}", f"target={target}", f"format={form}", *options]
        command = [sys.executable, "child.py", *arguments, "model_parallel_size=4"]
        subprocess.run(command, cwd=tmp_path, check=True, env=_environment(), timeout=900)
        more = json.loads((tmp_path / "peak.json").read_text())
        print(form, {name: f"{value / GIB:.2f} GiB" for name, value in more.items()})
        # of its own: a few weights, and what the model's classes import
        assert more["RssAnon"] < 4 * largest + 0.3 * GIB < total


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NEMO_LOG_LEVEL": "ERROR"}
