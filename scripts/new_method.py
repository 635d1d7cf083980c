"""Writes a new distillation method that works at once: one file, one recipe, one test.

    python scripts/new_method.py my_method

It compares projected hidden states until you change it; README.md, "Create a new distillation
method", goes through the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

from glmkd_nemo.distill.new_method import ROOT, next_steps, write_method

USER_ERROR = 2


def main() -> int:
    """Parses the command line, writes the files, says what comes next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the method: lower-case words joined by underscores")
    parser.add_argument("--into", type=Path, default=ROOT, help="root of the checkout (this one)")
    args = parser.parse_args()
    try:
        files = write_method(args.name, args.into)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    for path in files:
        print(f"wrote {path}")
    print(next_steps(args.name, files, args.into))
    return 0


if __name__ == "__main__":
    sys.exit(main())
