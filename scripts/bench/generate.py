"""Tokens per second of generation with and without the key-value cache.

    python scripts/bench/generate.py [--threads 2] [--sizes tiny4 base] [--new 64] [--json]

Random weights of the sizes of conf/model, a vocabulary of 30,592, fp32; every blank is filled with
exactly ``--new`` tokens. Both ways are timed in one sitting, one after the other, and must give the
same tokens; the fastest of ``--repeat`` rounds counts. ``cpu`` is the ratio of processor time,
which other programs on the machine change less. Asserts no speed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

import torch
from omegaconf import OmegaConf

from glmkd_nemo.config.run import CONF
from glmkd_nemo.generation import GenerationConfig, Generator
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel

VOCAB = 30592
SEARCHES: dict[str, dict[str, int]] = {"greedy": {}, "4 beams": {"num_beams": 4}}


class Ids:
    """A tokenizer of ids without text."""

    pad_id, eos_id, cls_id, mask_id, sop_id, eop_id, gmask_id, smask_id = 0, 0, 1, 2, 3, 4, 5, None

    def decode(self, ids: list[int]) -> str:
        """The ids."""
        return " ".join(map(str, ids))


def model(size: str) -> GLMModel:
    """A GLM with random weights."""
    sizes: Any = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{size}.yaml"))
    sizes.pop("defaults", None)
    return GLMModel(glm_config_from_cfg({**sizes, "max_position_embeddings": 512}, VOCAB)).eval()


def seconds(
    generator: Generator, prompts: list[list[int]], config: GenerationConfig, repeat: int
) -> tuple[float, float, list[list[int]]]:
    """Least seconds and processor seconds of ``repeat`` rounds, and what was generated."""
    best, busy, made = float("inf"), float("inf"), []
    for _ in range(repeat):
        start, used = time.perf_counter(), time.process_time()
        made = generator.generate(prompts, config)
        best = min(best, time.perf_counter() - start)
        busy = min(busy, time.process_time() - used)
    return best, busy, [row.ids for row in made]


def measure(size: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the table of one size."""
    glm = model(size)
    for batch in args.batch:
        words = torch.randint(10, VOCAB, (batch, args.context)).tolist()
        prompts = [[1, *row, 2, 0] for row in words]
        generator = Generator(glm, Ids(), batch)
        generator.generate(prompts[:1], GenerationConfig(max_new_tokens=2))  # warms up
        for name, search in SEARCHES.items():
            rates, busy, texts = [], [], []
            for cached in (True, False):
                config = GenerationConfig(
                    max_new_tokens=args.new,
                    min_new_tokens=args.new - 1,
                    suppress_tokens=[0, 4],
                    use_cache=cached,
                    **search,
                )
                spent, used, made = seconds(generator, prompts, config, args.repeat)
                rates.append(batch * args.new / spent)
                busy.append(used)
                texts.append(made)
            row: dict[str, Any] = {"size": size, "batch": batch, "search": name}
            row |= {"cached": rates[0], "whole": rates[1], "ratio": rates[0] / rates[1]}
            yield row | {"cpu_ratio": busy[1] / busy[0], "equal": texts[0] == texts[1]}


def start_engine(threads: int) -> None:
    """One process, as many threads as asked for."""
    from glmkd_nemo.engine.strategy import join_alone

    torch.set_num_threads(threads)
    join_alone()
    torch.manual_seed(0)


def main() -> None:
    """Parses the command line and prints the table, or a JSON object per row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", nargs="+", default=["tiny4", "base"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--context", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens generated for it")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    start_engine(args.threads)
    if not args.json:
        print(f"{args.threads} threads, {args.context} + {args.new} tokens; tokens per second")
        ratios = f"{'ratio':>7s}{'cpu':>7s}"
        print(f"{'size':8s}{'batch':>6s} {'search':10s}{'cached':>9s}{'whole':>9s}{ratios}")
    for size in args.sizes:
        for row in measure(size, args):
            if args.json:
                print(json.dumps(row), flush=True)
                continue
            rates = f"{row['cached']:9.1f}{row['whole']:9.1f}"
            rates += f"{row['ratio']:7.2f}{row['cpu_ratio']:7.2f}"
            note = "" if row["equal"] else "  (texts differ)"
            print(f"{size:8s}{row['batch']:6d} {row['search']:10s}{rates}{note}", flush=True)


if __name__ == "__main__":
    main()
