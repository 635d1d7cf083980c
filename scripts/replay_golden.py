"""Replays recorded cases of the reference and prints relative errors.

    python scripts/replay_golden.py ../shared/golden/distill_pt/kd_* [--tp 2] [--sp] [--pp 2]
    python scripts/replay_golden.py ../shared/golden/data/superglue/*.json [--vocab vocab.txt]

Exit code 1 if a counted case is off by more than 1e-5 in logits, loss, a component or a gradient,
or a feature file (its rows: ../superglue_raw/TASK/SPLIT.jsonl) is not equal in every number.
"""

import argparse
import sys

from glmkd_nemo.replay.cli import replay


def main() -> int:
    """Parses the command line, starts the ranks, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", help="case folders and feature files")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel size")
    parser.add_argument("--pp", type=int, default=1, help="pipeline-parallel size")
    parser.add_argument("--sp", action="store_true", help="sequence parallelism (with --tp)")
    parser.add_argument("--recompute", choices=["full", "selective"], help="activation recompute")
    parser.add_argument("--verbose", action="store_true", help="print every error, not the worst")
    parser.add_argument("--vocab", help="vocab.txt of feature files, if it is not near them")
    args = parser.parse_args()
    return replay(args.cases, args.tp, args.pp, args.sp, args.recompute, args.verbose, args.vocab)


if __name__ == "__main__":
    sys.exit(main())
