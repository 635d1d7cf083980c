"""Entry point of ``scripts/compare_methods.py``: arguments, errors for the user, the page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from glmkd_nemo.compare import recipes
from glmkd_nemo.compare.settings import load_settings
from glmkd_nemo.demo.settings import load_settings as load_demo

INCOMPLETE, USER_ERROR, STOPPED = 1, 2, 130


def main(arguments: list[str]) -> int:
    """Runs a comparison; exit code 0, 1 (a recipe was not trained), 2 (a user's error) or 130."""
    args = _parser().parse_args(arguments)
    try:
        return _run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Trains a small student with every method and compares held-out losses."
    )
    parser.add_argument("names", nargs="*", help="recipes of conf/method, conf/aggregator (all)")
    parser.add_argument("--steps", type=int, help="of every student (conf/compare.yaml: 200)")
    parser.add_argument("--batch-size", type=int, help="of every student (conf/compare.yaml: 12)")
    parser.add_argument("--out", help="folder of the results (conf/compare.yaml: runs/compare)")
    parser.add_argument(
        "--demo", nargs="*", default=[], metavar="KEY=VALUE", help="settings of conf/demo.yaml"
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    chosen = recipes.entries(args.names)
    settings = load_settings({"steps": args.steps, "batch_size": args.batch_size, "out": args.out})
    demo = load_demo(args.demo)
    from glmkd_nemo.compare.page import write_page
    from glmkd_nemo.compare.run import Compare
    from glmkd_nemo.compare.terminal import print_table
    from glmkd_nemo.demo.process import StageFailedError
    from glmkd_nemo.demo.terminal import print_line

    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    print_line(f"{len(chosen)} recipes, {settings.steps} steps each; results go to {out}")
    try:
        found = Compare(settings, demo, print_line).run(chosen)
    except StageFailedError as error:
        print(f"error: {error}; what it printed says why", file=sys.stderr)
        return INCOMPLETE
    found.save(out / "results.json")
    write_page(found, out / "compare.html")
    print_table(found, out / "compare.html")
    return INCOMPLETE if found.refused else 0
